//! What the committer counts. It alone writes; anybody may read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use moorline_daemon::metrics::{Histogram, Unit};

/// How many transactions share an fsync.
const GROUPS: [u64; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
/// How long a group takes with its fsync, in microseconds.
const MICROSECONDS: [u64; 11] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 2_500_000,
];

/// What the store has done since it was opened.
#[derive(Debug)]
pub struct Stats {
    written: AtomicU64,
    conflicts: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    failing: AtomicBool,
    group: Histogram,
    time: Histogram,
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable.
    Written,
    /// A guard did not hold.
    Conflict,
    /// Nothing was written: a full disk, say.
    Unavailable,
    /// Nobody can say.
    Unknown,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Written, Self::Conflict, Self::Unavailable, Self::Unknown];

    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown",
        }
    }
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            written: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            group: Histogram::new(Unit::Count, &GROUPS),
            time: Histogram::new(Unit::Microseconds, &MICROSECONDS),
        }
    }
}

impl Stats {
    fn counter(&self, outcome: Outcome) -> &AtomicU64 {
        match outcome {
            Outcome::Written => &self.written,
            Outcome::Conflict => &self.conflicts,
            Outcome::Unavailable => &self.refused,
            Outcome::Unknown => &self.unknown,
        }
    }

    /// A group that callers wait for is durable.
    pub(super) fn group(&self, transactions: usize, took: Duration) {
        self.group.observe(transactions as u64);
        self.time.observe_time(took);
    }

    pub(super) fn count(&self, outcome: Outcome, transactions: usize) {
        self.counter(outcome)
            .fetch_add(transactions as u64, Ordering::Relaxed);
    }

    /// The last group could not be made durable.
    pub(super) fn failing(&self) {
        self.failing.store(true, Ordering::Relaxed);
    }

    /// The last group is durable.
    pub(super) fn good(&self) {
        self.failing.store(false, Ordering::Relaxed);
    }

    /// How many transactions ended so.
    pub fn transactions(&self, outcome: Outcome) -> u64 {
        self.counter(outcome).load(Ordering::Relaxed)
    }

    /// Whether the last group could not be made durable.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// How many transactions groups had.
    pub const fn groups(&self) -> &Histogram {
        &self.group
    }

    /// How long groups took, their fsync included.
    pub const fn times(&self) -> &Histogram {
        &self.time
    }
}
