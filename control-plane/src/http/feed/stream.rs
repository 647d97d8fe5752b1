//! One host's feed over time: its passage, a bookmark now and then, and its end; or a poll, which ends by itself.

use std::time::Duration;

use moorline_shared::api::feed::{BOOKMARK_SECONDS, FeedMessage, MAX_POLL_MS, OpenFeed, Poll};
use moorline_shared::{HostId, Revision};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::dispatcher::FeedHandle;
use super::feeds::Opened;
use super::parts::Sink;
pub use super::passage::FeedError;
use super::passage::{Passage, Passed};
use super::views::Views;
use crate::store::Store;

/// How long a host's bookmark may wait for the dispatcher. One that is further behind than this vouches for nothing.
const IN_STEP: Duration = Duration::from_secs(1);

/// A feed being written.
pub struct Stream {
    store: Store,
    handle: FeedHandle,
    host: HostId,
    session: u64,
    passage: Passage,
    cancel: CancellationToken,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.handle.close(self.host.clone(), self.session);
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
        Self {
            session: opened.session,
            passage: Passage::new(store.epoch(), views, opened),
            store,
            handle,
            host,
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
        if let Some(poll) = &open.poll {
            return self.poll(open.cursor, poll, opened, sink).await;
        }
        self.passage.begin(open.cursor, &opened, sink).await?;
        drop(opened);
        self.follow(sink).await
    }

    /// Brings what there is, or what comes first if there is nothing yet, and says that this was all.
    async fn poll(
        &mut self,
        cursor: Option<Revision>,
        poll: &Poll,
        opened: Opened,
        sink: &mut impl Sink,
    ) -> Result<(), FeedError> {
        let until = Instant::now() + Duration::from_millis(poll.wait_ms.min(MAX_POLL_MS).into());
        let mut passed = self.passage.begin_poll(cursor, poll, &opened, sink).await?;
        drop(opened);
        while passed == Passed::Nothing && Instant::now() < until {
            tokio::select! {
                // Cancel-safe: news that nobody took is kept, and nothing was taken from the queue.
                () = self.cancel.cancelled() => return Err(FeedError::Closed),
                () = self.passage.news() => passed = self.passage.pass(sink).await?,
                () = tokio::time::sleep_until(until) => {}
            }
        }
        let Some(head) = self.in_step().await? else {
            return Err(FeedError::Closed);
        };
        // What waits behind the bookmark would come with the next poll only, and count as told meanwhile.
        self.passage.pass_up_to(head, sink).await?;
        self.passage.bookmark(head, sink).await
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
            if self.passage.pass(sink).await? == Passed::Nothing {
                tokio::select! {
                    // Cancel-safe: news that nobody took is kept, and nothing was taken from the queue.
                    () = self.cancel.cancelled() => return Err(FeedError::Closed),
                    () = self.passage.news() => {}
                    () = tokio::time::sleep_until(due) => {}
                }
            }
        }
    }

    /// Says that everything was told that concerns the host, once the dispatcher has seen all that is committed now.
    async fn bookmark(&mut self, sink: &mut impl Sink) -> Result<(), FeedError> {
        let Some(head) = self.in_step().await? else {
            return Ok(());
        };
        self.passage.bookmark(head, sink).await
    }

    /// The head of the store, of which the dispatcher has told every queue; `None` if it is too far behind.
    async fn in_step(&self) -> Result<Option<u64>, FeedError> {
        let head = self.store.head().await?;
        if timeout(IN_STEP, self.handle.reached(head)).await.is_ok() {
            return Ok(Some(head));
        }
        tracing::warn!(host = %self.host, head, "the feed is behind the store, and vouches for nothing");
        Ok(None)
    }
}
