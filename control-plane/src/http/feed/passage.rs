//! What a feed says, in its order: up to where its queue begins, and then what the queue gives. Nothing here waits but for
//! the store and for the host.

use std::sync::Arc;

use moorline_shared::api::feed::{FeedItem, FeedMessage, Poll, ViewId, named};
use moorline_shared::{EntryPath, Revision};

use super::feeds::Opened;
use super::index::Told;
use super::parts::{Gone, Parts, Sink};
use super::queue::{Next, Queue, Waiting};
use super::views::{Readable, Views};
use crate::store::ReadError;

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

/// A feed on its way to its host.
#[derive(Debug)]
pub struct Passage {
    epoch: u64,
    views: Views,
    queue: Arc<Queue>,
    /// The state that the host has.
    cursor: u64,
    /// Where it takes itself to stand: before the cursor, if nothing of its own changed in between.
    stands: u64,
}

/// Whether there was anything to pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// There was, and there may be more.
    Something,
    /// The queue is empty.
    Nothing,
}

impl Passage {
    /// A feed that was opened on a store of `epoch`, which `views` reads.
    pub fn new(epoch: u64, views: Views, opened: &Opened) -> Self {
        Self {
            epoch,
            views,
            queue: opened.queue.clone(),
            cursor: opened.at,
            stands: opened.at,
        }
    }

    /// Tells what was revoked since the host's `cursor`, and brings the host to where the queue begins.
    ///
    /// # Errors
    /// [`FeedError`] if the host is gone, or what it needs can't be read. The feed is over then.
    pub async fn begin(
        &self,
        cursor: Option<Revision>,
        opened: &Opened,
        sink: &mut impl Sink,
    ) -> Result<(), FeedError> {
        for revocation in &opened.revoked {
            sink.send(&FeedMessage::Revoked(revocation.clone())).await?;
        }
        self.catch_up(cursor, opened, sink).await
    }

    /// The same for a poll, which brings nothing where the host stands right.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub async fn begin_poll(
        &mut self,
        cursor: Option<Revision>,
        poll: &Poll,
        opened: &Opened,
        sink: &mut impl Sink,
    ) -> Result<Passed, FeedError> {
        let specs = opened.instances.iter().map(|spec| (spec.instance, spec.revision));
        let changed = !opened.revoked.is_empty() || poll.instances != Some(named(specs));
        let untouched = |from: &Revision| opened.views.iter().all(|(_, touched)| *touched <= from.n);
        match self.goes_on_from(cursor, opened).filter(untouched) {
            Some(from) if !changed => {
                self.stands = from.n;
                Ok(Passed::Nothing)
            }
            _ => {
                self.begin(cursor, opened, sink).await?;
                Ok(Passed::Something)
            }
        }
    }

    /// The host's cursor. One of another store, or of one that lost what the host has seen, means nothing here.
    fn goes_on_from(&self, cursor: Option<Revision>, opened: &Opened) -> Option<Revision> {
        cursor.filter(|from| from.epoch == self.epoch && from.n <= opened.at)
    }

    /// Brings the host to where the queue begins. The views come one by one, so that neither side ever holds them all.
    async fn catch_up(
        &self,
        cursor: Option<Revision>,
        opened: &Opened,
        sink: &mut impl Sink,
    ) -> Result<(), FeedError> {
        let to = Revision::new(self.epoch, opened.at);
        let from = self.goes_on_from(cursor, opened);
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

    /// Passes on what is next in the queue.
    ///
    /// # Errors
    /// As [`Self::begin`], and [`FeedError::Closed`] once the queue is.
    pub async fn pass(&mut self, sink: &mut impl Sink) -> Result<Passed, FeedError> {
        match self.queue.take() {
            Next::Revoked(revocation) => sink.send(&FeedMessage::Revoked(revocation)).await?,
            Next::Batch(batch) => self.pass_on(batch, sink).await?,
            Next::Closed => return Err(FeedError::Closed),
            Next::Empty => return Ok(Passed::Nothing),
        }
        Ok(Passed::Something)
    }

    /// Passes on what waits of all that came up to `head`, of which the queue was told.
    ///
    /// # Errors
    /// As [`Self::pass`].
    pub async fn pass_up_to(&mut self, head: u64, sink: &mut impl Sink) -> Result<(), FeedError> {
        while self.cursor < head && self.pass(sink).await? == Passed::Something {}
        Ok(())
    }

    /// Waits until there may be something to pass on. Cancel-safe: news that nobody took is kept.
    pub async fn news(&self) {
        self.queue.news().await;
    }

    /// What was revoked doesn't wait until views were read and sent.
    async fn pass_revoked(&self, parts: &mut Parts<'_, impl Sink>) -> Result<(), FeedError> {
        while let Some(revocation) = self.queue.take_revoked() {
            parts.aside(&FeedMessage::Revoked(revocation)).await?;
        }
        Ok(())
    }

    async fn pass_on(&mut self, batch: Waiting, sink: &mut impl Sink) -> Result<(), FeedError> {
        let revision = |n| Revision::new(self.epoch, n);
        let (from, to) = (revision(self.stands), revision(batch.to));
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
        (self.cursor, self.stands) = (batch.to, batch.to);
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

    /// Says that everything was told that concerns the host. Every queue has been told of all up to `head`.
    ///
    /// # Errors
    /// [`FeedError::Closed`] if the host is gone, or has to come again for what was left out.
    pub async fn bookmark(&mut self, head: u64, sink: &mut impl Sink) -> Result<(), FeedError> {
        self.pass_revoked(&mut Parts::new(sink)).await?;
        // A bookmark says that all was told that was revoked.
        if self.queue.has_lost() {
            return Err(FeedError::Closed);
        }
        // What came up to the head and concerns the host was put into the queue, so that an empty one says it was sent.
        if self.queue.is_empty() {
            self.cursor = head.max(self.cursor);
            self.stands = self.cursor;
        }
        let revision = Revision::new(self.epoch, self.stands);
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
