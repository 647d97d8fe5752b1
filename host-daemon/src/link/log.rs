//! How often the log tells of one guest, so that none can fill the host's disk or hide what others do.

use moorline_shared::link::Moment;

use super::budget::Bucket;

/// How many lines a guest may cause at once.
const LINES: u32 = 10;
/// How long it is until it may cause one more, in milliseconds.
const LINE_INTERVAL_MS: u32 = 10_000;

/// The lines about a guest: so many at once, and one more every now and then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Log {
    bucket: Bucket,
    suppressed: u64,
}

/// That a line may be logged. It says how many were not since the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) suppressed: u64,
}

impl Log {
    pub(super) fn new(now: Moment) -> Self {
        Self {
            bucket: Bucket::new(LINES, LINE_INTERVAL_MS, now),
            suppressed: 0,
        }
    }

    /// Whether a line may be logged now; one that may not is counted.
    pub(super) fn line(&mut self, now: Moment) -> Option<Line> {
        if self.bucket.take(now) {
            let suppressed = std::mem::take(&mut self.suppressed);
            return Some(Line { suppressed });
        }
        self.suppressed += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{LINE_INTERVAL_MS, LINES, Line, Log};
    use moorline_shared::link::Moment;

    #[test]
    fn a_guest_that_floods_the_log_is_cut_short_and_the_next_line_says_by_how_much() {
        let begun = Moment(5);
        let mut log = Log::new(begun);
        for _ in 0..LINES {
            assert_eq!(log.line(begun), Some(Line::default()));
        }
        for _ in 0..1_000 {
            assert_eq!(log.line(begun), None);
        }
        let later = Moment(begun.0 + u64::from(LINE_INTERVAL_MS));
        assert_eq!(log.line(later), Some(Line { suppressed: 1_000 }));
        assert_eq!(log.line(later), None);
        let hour = (begun.0..begun.0 + 3_600_000).step_by(100);
        let lines = hour.filter(|now| log.line(Moment(*now)).is_some()).count();
        assert!(lines <= 371, "{lines} lines in an hour of one guest");
    }
}
