//! The only clock of the world: it stands still until an event moves it on.

use moorline_host::cache::Now;
use moorline_shared::Timestamp;
use moorline_shared::link::Moment;

/// When the world begins, in milliseconds since 1970.
const DAWN_MS: i64 = 1_800_000_000_000;

/// The time of the world.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock(u64);

impl Clock {
    /// Moves on.
    pub const fn advance(&mut self, ms: u64) {
        self.0 += ms;
    }

    /// Milliseconds since the world began, and a while before that: no moment is zero.
    pub const fn ms(self) -> u64 {
        self.0 + 1_000_000
    }

    /// This moment, on the clocks of hosts.
    pub const fn moment(self) -> Moment {
        Moment(self.ms())
    }

    /// The time of day.
    pub fn time(self) -> Timestamp {
        let ms = DAWN_MS.saturating_add_unsigned(self.0);
        Timestamp::from_millis(ms).expect("no world lasts that long")
    }

    /// Both, as a host's cache takes them.
    pub fn both(self) -> Now {
        Now {
            moment: self.moment(),
            time: self.time(),
        }
    }
}
