//! How often a guest may do something: a bucket of tokens that fills again as time passes. How much of it may be under way
//! at once. And how much it may have made for it: an account that time pays off.

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

/// What is asked of the control plane for a guest: so much at once, and so often.
#[derive(Clone, Copy, Debug)]
pub(super) struct Upstream {
    most: usize,
    rate: Bucket,
    /// How many questions were not answered, those included that the guest doesn't wait for any more.
    asked: usize,
}

impl Upstream {
    /// Nothing was asked.
    pub(super) fn new(most: usize, per_second: u32, now: Moment) -> Self {
        Self {
            most,
            rate: Bucket::per_second(per_second, now),
            asked: 0,
        }
    }

    /// Whether one more may be asked now, which is counted as often as this says so.
    pub(super) fn may_ask(&mut self, now: Moment) -> bool {
        self.asked < self.most && self.rate.take(now)
    }

    /// One more was asked.
    pub(super) fn ask(&mut self) {
        self.asked += 1;
    }

    /// One was answered. A guest that was forgotten meanwhile, and is known again, never asked.
    pub(super) fn answered(&mut self) {
        self.asked = self.asked.saturating_sub(1);
    }
}

/// What a guest cost lately, in bytes. Over its credit it has to wait; what is too large for that at once is still had.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    owed: u64,
    credit: u64,
    paid_per_ms: u64,
    /// Up to when it was paid.
    paid: Moment,
}

impl Account {
    /// Nothing is owed.
    pub(super) fn new(credit: u64, paid_per_ms: u64, now: Moment) -> Self {
        Self {
            owed: 0,
            credit,
            paid_per_ms,
            paid: now,
        }
    }

    /// Whether more may be had.
    pub(super) fn is_good(&mut self, now: Moment) -> bool {
        let paid = now.since(self.paid).saturating_mul(self.paid_per_ms);
        self.owed = self.owed.saturating_sub(paid);
        self.paid = now;
        self.owed < self.credit
    }

    /// So much was had.
    pub(super) fn charge(&mut self, bytes: usize) {
        self.owed = self.owed.saturating_add(bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::{Account, Bucket};
    use moorline_shared::link::Moment;

    #[test]
    fn what_was_had_beyond_the_credit_is_waited_for() {
        let mut account = Account::new(100, 2, Moment(0));
        assert!(account.is_good(Moment(0)));
        account.charge(99);
        assert!(account.is_good(Moment(0)));
        account.charge(201);
        assert!(
            !account.is_good(Moment(100)),
            "100 of 300 are left, and that is all it may owe"
        );
        assert!(account.is_good(Moment(101)));
        assert!(account.is_good(Moment(1_000_000)));
        account.charge(100);
        assert!(
            !account.is_good(Moment(1_000_000)),
            "what was not owed is not saved up"
        );
    }

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
