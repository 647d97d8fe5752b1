//! One host's feed: catches up to where its queue begins, then passes on what the queue gives.

use std::sync::Arc;
use std::time::Duration;

use moorline_shared::api::feed::{BOOKMARK_SECONDS, FeedItem, FeedMessage, OpenFeed, ViewId};
use moorline_shared::{EntryPath, HostId, Revision};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::dispatcher::{FeedHandle, Opened};
use super::index::Told;
use super::parts::{Gone, Parts, Sink};
use super::queue::{Next, Queue, Waiting};
use super::views::{Readable, Views};
use crate::store::{ReadError, Store};

/// How long a host's bookmark may wait for the dispatcher. One that is further behind than this vouches for nothing.
const IN_STEP: Duration = Duration::from_secs(1);

/// A feed being written.
pub struct Stream {
    store: Store,
    views: Views,
    handle: FeedHandle,
    host: HostId,
    session: u64,
    queue: Arc<Queue>,
    /// Where the host stands.
    cursor: u64,
    cancel: CancellationToken,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.handle.close(self.host.clone(), self.session);
    }
}

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
            cursor: opened.at,
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
        for revocation in &opened.revoked {
            sink.send(&FeedMessage::Revoked(revocation.clone())).await?;
        }
        self.catch_up(open.cursor, &opened, sink).await?;
        drop(opened);
        self.follow(sink).await
    }

    /// Brings the host to where the queue begins. The views come one by one, so that neither side ever holds them all.
    async fn catch_up(
        &self,
        cursor: Option<Revision>,
        opened: &Opened,
        sink: &mut impl Sink,
    ) -> Result<(), FeedError> {
        let to = Revision::new(self.store.epoch(), opened.at);
        // A cursor of another store, or of one that lost what the host has seen, means nothing here.
        let from = cursor.filter(|from| from.epoch == to.epoch && from.n <= to.n);
        sink.send(&FeedMessage::Snapshot { from, to }).await?;
        let mut parts = Parts::new(sink);
        for spec in &opened.instances {
            parts.item(FeedItem::Instance(spec.clone())).await?;
        }
        let mut incomplete = Vec::new();
        for (view, touched) in &opened.views {
            if from.is_none_or(|from| from.n < *touched) {
                self.pass_revoked(&mut parts).await?;
                let Readable { view, damage } = self.views.readable(opened.at, *view).await?;
                if !damage.is_empty() {
                    report(view.view, &damage);
                    incomplete.push(view.view);
                }
                parts.view(view).await?;
            }
        }
        parts.flush().await?;
        sink.send(&FeedMessage::SnapshotEnd { to }).await?;
        if incomplete.is_empty() {
            return Ok(());
        }
        // The host serves what there is of them as what may be out of date, and asks until it gets them whole.
        resync(incomplete, sink).await?;
        let (from, items) = (to, Vec::new());
        Ok(sink.send(&FeedMessage::Batch { from, to, items }).await?)
    }

    async fn follow(&mut self, sink: &mut impl Sink) -> Result<(), FeedError> {
        let pause = Duration::from_secs(u64::from(BOOKMARK_SECONDS));
        let mut due = Instant::now();
        loop {
            // Also while batches keep coming: they don't say that nothing was revoked.
            if Instant::now() >= due {
                self.bookmark(sink).await?;
                due = Instant::now() + pause;
            }
            match self.queue.take() {
                Next::Revoked(revocation) => sink.send(&FeedMessage::Revoked(revocation)).await?,
                Next::Batch(batch) => self.pass_on(batch, sink).await?,
                Next::Closed => return Err(FeedError::Closed),
                Next::Empty => {
                    tokio::select! {
                        // Cancel-safe: news that nobody took is kept, and nothing was taken from the queue.
                        () = self.cancel.cancelled() => return Err(FeedError::Closed),
                        () = self.queue.news() => {}
                        () = tokio::time::sleep_until(due) => {}
                    }
                }
            }
        }
    }

    /// What was revoked doesn't wait until views were read and sent.
    async fn pass_revoked(&self, parts: &mut Parts<'_, impl Sink>) -> Result<(), FeedError> {
        while let Some(revocation) = self.queue.take_revoked() {
            parts.aside(&FeedMessage::Revoked(revocation)).await?;
        }
        Ok(())
    }

    async fn pass_on(&mut self, batch: Waiting, sink: &mut impl Sink) -> Result<(), FeedError> {
        let revision = |n| Revision::new(self.store.epoch(), n);
        let (from, to) = (revision(self.cursor), revision(batch.to));
        resync(batch.resync, sink).await?;
        let mut damaged = Vec::new();
        let mut parts = Parts::new(sink);
        for told in batch.told {
            match told {
                Told::Item(item) => parts.item(item).await?,
                Told::Reread(view) => {
                    self.pass_revoked(&mut parts).await?;
                    match self.views.readable(batch.to, view).await? {
                        Readable { view, damage } if damage.is_empty() => parts.view(view).await?,
                        // What the host has of it is better than what can be read now.
                        Readable { damage, .. } => {
                            report(view, &damage);
                            damaged.push(view);
                        }
                    }
                }
                Told::Withheld(view, path) => {
                    if let Some(item) = self.withheld(view, path).await? {
                        parts.item(item).await?;
                    }
                }
            }
        }
        let items = parts.rest();
        resync(damaged, sink).await?;
        sink.send(&FeedMessage::Batch { from, to, items }).await?;
        self.cursor = batch.to;
        Ok(())
    }

    /// What a host is told of an entry that its guest may see no more, if it could see it where the host stands.
    async fn withheld(&self, view: ViewId, path: EntryPath) -> Result<Option<FeedItem>, ReadError> {
        let was_shown = self.views.shows(self.cursor, view, &path).await?;
        Ok(was_shown.then_some(FeedItem::Entry {
            view,
            path,
            entry: None,
        }))
    }

    /// Says that everything was told that concerns the host, once the dispatcher has seen all that is committed now.
    async fn bookmark(&mut self, sink: &mut impl Sink) -> Result<(), FeedError> {
        let head = self.store.head().await?;
        if timeout(IN_STEP, self.handle.reached(head)).await.is_err() {
            tracing::warn!(host = %self.host, head, "the feed is behind the store, and vouches for nothing");
            return Ok(());
        }
        self.pass_revoked(&mut Parts::new(sink)).await?;
        // What came up to the head and concerns the host was put into the queue, so that an empty one says it was sent.
        if self.queue.is_empty() {
            self.cursor = head.max(self.cursor);
        }
        let revision = Revision::new(self.store.epoch(), self.cursor);
        Ok(sink.send(&FeedMessage::Bookmark { revision }).await?)
    }
}

/// Names views that the host has to ask for.
async fn resync(views: impl IntoIterator<Item = ViewId>, sink: &mut impl Sink) -> Result<(), Gone> {
    for view in views {
        sink.send(&FeedMessage::Resync { view }).await?;
    }
    Ok(())
}

/// One that is damaged costs the others nothing, but must not go unnoticed.
fn report(view: ViewId, damage: &[ReadError]) {
    for error in damage {
        tracing::error!(reader = %view.reader, instance = %view.instance, %error,
            "an entry can't be read: the feed brings the rest of the view");
    }
}
