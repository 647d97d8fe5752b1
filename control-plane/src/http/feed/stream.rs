//! One host's feed: catches up to where its queue begins, then passes on what the queue gives.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use moorline_shared::api::feed::{FeedItem, FeedMessage, OpenFeed, ViewId};
use moorline_shared::{HostId, InstanceId, Revision};
use tokio_util::sync::CancellationToken;

use super::dispatcher::{FeedHandle, Opened};
use super::index::Told;
use super::queue::{Next, Queue, Waiting};
use super::views::Views;
use crate::store::{ReadError, Store, WatchError};

/// How often a host that nothing concerns hears a bookmark, in seconds.
pub const BOOKMARK_SECONDS: u32 = 5;
/// The most transactions that a host catches up by their changes; over it everything is sent anew.
const MAX_CATCH_UP: u64 = 100_000;

/// A feed being written.
pub struct Stream {
    store: Store,
    views: Views,
    handle: FeedHandle,
    host: HostId,
    session: u64,
    queue: Arc<Queue>,
    /// Where the host stands.
    cursor: Option<u64>,
    cancel: CancellationToken,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.handle.close(self.host.clone(), self.session);
    }
}

/// Where a feed's messages go.
pub trait Sink {
    /// Sends a message, waiting while the host doesn't read. `Err` if it is gone.
    fn send(&mut self, message: &FeedMessage) -> impl Future<Output = Result<(), Gone>> + Send;
}

/// The host is gone.
#[derive(Debug, Clone, Copy)]
pub struct Gone;

/// Why a feed ended.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The host is gone, or another feed of it took over, or the control plane ends.
    #[error("the feed was closed")]
    Closed,
    /// What the host needs was compacted before it could be read; it comes again and gets everything.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<Gone> for FeedError {
    fn from(_: Gone) -> Self {
        Self::Closed
    }
}

impl Stream {
    /// The stream of an opened feed.
    pub fn new(
        store: Store,
        views: Views,
        handle: FeedHandle,
        host: HostId,
        opened: &Opened,
        cancel: CancellationToken,
    ) -> Self {
        let (session, queue) = (opened.session, opened.queue.clone());
        Self {
            store,
            views,
            handle,
            host,
            session,
            queue,
            cursor: None,
            cancel,
        }
    }

    /// Writes the feed until it ends.
    pub async fn run(
        mut self,
        deployment: String,
        open: OpenFeed,
        opened: Opened,
        sink: &mut impl Sink,
    ) -> Result<(), FeedError> {
        let hello = FeedMessage::Hello {
            host: self.host.clone(),
            session: self.session,
            deployment,
            bookmark_seconds: BOOKMARK_SECONDS,
        };
        sink.send(&hello).await?;
        let first = self.catch_up(open.cursor, &opened).await?;
        sink.send(&first).await?;
        self.cursor = Some(opened.at);
        drop(opened);
        self.follow(sink).await
    }

    /// What brings the host to where the queue begins: what changed since its cursor, or everything.
    async fn catch_up(&self, cursor: Option<Revision>, opened: &Opened) -> Result<FeedMessage, FeedError> {
        let to = Revision::new(self.store.epoch(), opened.at);
        let resumable =
            cursor.filter(|from| from.epoch == to.epoch && from.n <= to.n && to.n - from.n <= MAX_CATCH_UP);
        if let Some(from) = resumable
            && let Some(touched) = self.touched(from.n, to.n).await?
        {
            let items = self.since(&touched, opened).await?;
            return Ok(FeedMessage::Batch {
                from: Some(from),
                to,
                items,
            });
        }
        Ok(FeedMessage::Batch {
            from: None,
            to,
            items: self.everything(opened).await?,
        })
    }

    /// The instances that transactions in `(from, to]` touched; `None` if those transactions are gone.
    async fn touched(&self, from: u64, to: u64) -> Result<Option<BTreeSet<InstanceId>>, FeedError> {
        let mut touched = BTreeSet::new();
        if from == to {
            return Ok(Some(touched));
        }
        let mut watch = match self.store.watch(from).await {
            Ok(watch) => watch,
            Err(ReadError::Compacted { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        loop {
            match watch.next().await {
                Ok(batch) => {
                    touched.extend(
                        batch
                            .events
                            .iter()
                            .filter_map(|event| touched_instance(event.key.as_bytes())),
                    );
                    if batch.n >= to {
                        return Ok(Some(touched));
                    }
                }
                Err(WatchError::Compacted { .. }) => return Ok(None),
                Err(_) => return Err(FeedError::Closed),
            }
        }
    }

    /// The whole of what was touched, as far as it concerns the host: each view that may have changed, as it is now.
    async fn since(
        &self,
        touched: &BTreeSet<InstanceId>,
        opened: &Opened,
    ) -> Result<Vec<FeedItem>, FeedError> {
        let gone = opened.ended.iter().filter(|id| touched.contains(id));
        let mut items: Vec<_> = gone.map(|id| FeedItem::InstanceGone { instance: *id }).collect();
        items.extend(
            opened
                .instances
                .iter()
                .filter(|spec| touched.contains(&spec.instance))
                .cloned()
                .map(FeedItem::Instance),
        );
        for view in
            views_of(opened).filter(|view| touched.contains(&view.instance) || touched.contains(&view.reader))
        {
            items.push(FeedItem::View(self.views.read(opened.at, view).await?));
        }
        Ok(items)
    }

    async fn everything(&self, opened: &Opened) -> Result<Vec<FeedItem>, FeedError> {
        let mut items: Vec<_> = opened.instances.iter().cloned().map(FeedItem::Instance).collect();
        for view in views_of(opened) {
            items.push(FeedItem::View(self.views.read(opened.at, view).await?));
        }
        Ok(items)
    }

    async fn follow(&mut self, sink: &mut impl Sink) -> Result<(), FeedError> {
        let pause = Duration::from_secs(u64::from(BOOKMARK_SECONDS));
        loop {
            // The position is read before the queue is found empty: whatever came up to it has been taken.
            let position = self.handle.position();
            match self.queue.take() {
                Next::Batch(batch) => self.pass_on(batch, sink).await?,
                Next::Closed => return Err(FeedError::Closed),
                Next::Empty => {
                    tokio::select! {
                        // Cancel-safe: news that nobody took is kept, and nothing was taken from the queue.
                        () = self.cancel.cancelled() => return Err(FeedError::Closed),
                        () = self.queue.news() => {}
                        () = tokio::time::sleep(pause) => self.bookmark(position, sink).await?,
                    }
                }
            }
        }
    }

    async fn pass_on(&mut self, batch: Waiting, sink: &mut impl Sink) -> Result<(), FeedError> {
        let epoch = self.store.epoch();
        let mut items = Vec::with_capacity(batch.told.len());
        for told in batch.told {
            items.push(match told {
                Told::Item(item) => item,
                Told::Reread(view) => FeedItem::View(self.views.read(batch.to, view).await?),
            });
        }
        let from = self.cursor.replace(batch.to).map(|n| Revision::new(epoch, n));
        sink.send(&FeedMessage::Batch {
            from,
            to: Revision::new(epoch, batch.to),
            items,
        })
        .await?;
        for view in batch.resync {
            sink.send(&FeedMessage::Resync { view }).await?;
        }
        Ok(())
    }

    async fn bookmark(&mut self, position: u64, sink: &mut impl Sink) -> Result<(), FeedError> {
        self.cursor = Some(position.max(self.cursor.unwrap_or(0)));
        let revision = Revision::new(self.store.epoch(), self.cursor.unwrap_or(position));
        Ok(sink.send(&FeedMessage::Bookmark { revision }).await?)
    }
}

/// Every view the host has: of each of its instances on itself, and those it asked for.
fn views_of(opened: &Opened) -> impl Iterator<Item = ViewId> {
    opened
        .instances
        .iter()
        .map(|spec| ViewId::own(spec.instance))
        .chain(opened.interests.iter().copied())
}

/// The instance that a key belongs to, if hosts are concerned by the key.
fn touched_instance(key: &[u8]) -> Option<InstanceId> {
    let text = std::str::from_utf8(key).ok()?;
    let (kind, rest) = text.split_once('/')?;
    matches!(kind, "instance" | "entry")
        .then(|| rest.split('/').next()?.parse().ok())
        .flatten()
}
