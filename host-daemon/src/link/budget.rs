//! How often a guest may do something: a bucket of tokens that fills again as time passes.

use moorline_shared::link::Moment;

/// So many at once, and one more each interval.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    tokens: u32,
    burst: u32,
    interval_ms: u64,
    /// Up to when tokens were added.
    filled: Moment,
}

impl Bucket {
    /// A full bucket.
    pub(super) fn new(burst: u32, interval_ms: u32, now: Moment) -> Self {
        Self {
            tokens: burst,
            burst,
            interval_ms: u64::from(interval_ms.max(1)),
            filled: now,
        }
    }

    /// A bucket for so many per second, all at once or spread.
    pub(super) fn per_second(rate: u32, now: Moment) -> Self {
        Self::new(rate, 1_000 / rate.clamp(1, 1_000), now)
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, now: Moment) -> bool {
        self.fill(now);
        let taken = self.tokens > 0;
        self.tokens -= u32::from(taken);
        taken
    }

    /// Whether a token could be taken.
    pub(super) fn has(&mut self, now: Moment) -> bool {
        self.fill(now);
        self.tokens > 0
    }

    fn fill(&mut self, now: Moment) {
        let due = now.since(self.filled) / self.interval_ms;
        let tokens = u64::from(self.tokens)
            .saturating_add(due)
            .min(u64::from(self.burst));
        self.tokens = u32::try_from(tokens).unwrap_or(self.burst);
        // What is left of an interval counts towards the next token.
        self.filled = Moment(self.filled.0 + due * self.interval_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::Bucket;
    use moorline_shared::link::Moment;

    #[test]
    fn a_burst_and_then_one_each_interval() {
        let mut bucket = Bucket::new(3, 100, Moment(0));
        let taken = |bucket: &mut Bucket, at| (0..10).filter(|_| bucket.take(Moment(at))).count();
        assert_eq!(taken(&mut bucket, 0), 3);
        assert_eq!(taken(&mut bucket, 99), 0);
        assert_eq!(taken(&mut bucket, 250), 2);
        assert_eq!(taken(&mut bucket, 299), 0);
        assert_eq!(taken(&mut bucket, 300), 1);
        assert_eq!(taken(&mut bucket, 1_000_000), 3);
    }
}
