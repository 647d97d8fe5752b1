//! What the feed counts.

use std::sync::atomic::{AtomicU64, Ordering};

use moorline_daemon::metrics::Scrape;

use crate::metrics::scrape::shown;

/// What waits for hosts, and what became of it. The queues and the dispatcher write, a scrape reads.
#[derive(Debug, Default)]
pub struct Stats {
    pub(super) hosts: AtomicU64,
    pub(super) opened: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) merged: AtomicU64,
    pub(super) resyncs: AtomicU64,
}

/// What a queue holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) batches: usize,
    pub(super) bytes: usize,
}

impl Stats {
    /// A queue that held `before` holds `after`. The sums wrap: whatever one queue adds it takes away again.
    pub(super) fn moved(&self, before: Held, after: Held) {
        let add = |sum: &AtomicU64, before: usize, after: usize| {
            sum.fetch_add((after as u64).wrapping_sub(before as u64), Ordering::Relaxed);
        };
        add(&self.batches, before.batches, after.batches);
        add(&self.bytes, before.bytes, after.bytes);
    }

    /// Adds what was counted.
    pub(crate) fn add_to(&self, scrape: &mut Scrape) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let help = "Hosts that have a feed open";
        scrape.gauge("moorline_control_feed_hosts", help, shown(read(&self.hosts)));
        let help = "Feeds that hosts have opened";
        scrape.counter("moorline_control_feed_opened", help, read(&self.opened));
        let help = "Batches that wait in the queues of all hosts";
        scrape.gauge(
            "moorline_control_feed_queued_batches",
            help,
            shown(read(&self.batches)),
        );
        let help = "Bytes that wait in the queues of all hosts, about";
        scrape.gauge(
            "moorline_control_feed_queued_bytes",
            help,
            shown(read(&self.bytes)),
        );
        let help = "Queues that were over their bound and became one batch";
        scrape.counter("moorline_control_feed_merged", help, read(&self.merged));
        let help = "Views that hosts were told to read anew, because what changed was too much to be sent";
        scrape.counter("moorline_control_feed_resyncs", help, read(&self.resyncs));
    }
}
