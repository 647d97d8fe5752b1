//! What is counted of guests and of the feed, for metrics. Whoever writes pays one relaxed addition; a scrape reads.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub(crate) fn add(&self) {
        self.add_many(1);
    }

    /// So many more.
    pub(crate) fn add_many(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a shard counts of all its guests together, those included that are gone. It alone writes.
#[derive(Debug, Default)]
pub struct Counts {
    /// GET frames.
    pub gets: Count,
    /// LIST frames.
    pub lists: Count,
    /// WATCH frames.
    pub watches: Count,
    /// RELAY frames.
    pub relays: Count,
    /// How many of all these were refused because a budget of the guest's or the daemon's was used up.
    pub refused_busy: Count,
    /// How many were refused for another reason.
    pub refused: Count,
    /// Guests that were welcome: each time that one begins to speak.
    pub welcomed: Count,
    /// Connections that were cut, turned away or made to wait, because their guest has too many or makes them too often.
    pub crowded: Count,
    /// Connections of somebody else than the guest's root.
    pub strangers: Count,
    /// Connections that ended by the guest's fault.
    pub faults: Count,
    /// Batches with what changed.
    pub changes_pushed: Count,
    /// Batches with all that there is.
    pub snapshots_pushed: Count,
    /// Lines about guests that were not logged, because there were too many of the same guest.
    pub lines_suppressed: Count,
}

/// What the uplink counts of the feed. It alone writes.
#[derive(Debug, Default)]
pub struct FeedCounts {
    /// Feeds that were opened.
    pub opened: Count,
    /// Feeds that were lost.
    pub lost: Count,
    /// Times that everything came anew.
    pub snapshots: Count,
    /// Views that had to be asked for, because what changed had been dropped.
    pub resyncs: Count,
}
