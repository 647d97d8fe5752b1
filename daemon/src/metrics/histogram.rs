//! How something is distributed, counted without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Time, which is shown in seconds.
    Microseconds,
    /// Things.
    Count,
}

impl Unit {
    /// As it is shown.
    fn shown(self, value: u64) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "what is shown need not be exact beyond 2^53"
        )]
        let value = value as f64;
        match self {
            Self::Microseconds => value / 1e6,
            Self::Count => value,
        }
    }
}

/// Counts of what was seen, by its size. Any thread may add to it while another reads.
#[derive(Debug)]
pub struct Histogram {
    unit: Unit,
    bounds: &'static [u64],
    /// One for each bound, and one for what is over all of them.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// A histogram as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    pub(super) sum: f64,
    pub(super) count: u64,
    /// Each bound, and how many were up to it and over the one before.
    pub(super) buckets: Vec<(f64, u64)>,
}

impl Histogram {
    /// One that has seen nothing. `bounds` are in `unit` and ascend.
    pub fn new(unit: Unit, bounds: &'static [u64]) -> Self {
        Self {
            unit,
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    /// Adds something of this size. It is relaxed: a reader may see the count before the sum.
    pub fn observe(&self, value: u64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Adds something that took so long.
    pub fn observe_time(&self, time: Duration) {
        self.observe(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// All that was seen so far.
    pub fn read(&self) -> Distribution {
        let counts: Vec<_> = self
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect();
        let bounds = self.bounds.iter().map(|bound| self.unit.shown(*bound));
        Distribution {
            sum: self.unit.shown(self.sum.load(Ordering::Relaxed)),
            count: counts.iter().sum(),
            buckets: bounds.chain([f64::INFINITY]).zip(counts).collect(),
        }
    }
}

impl Distribution {
    /// Whether nothing was seen.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}
