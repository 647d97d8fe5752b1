//! Calls to the guest's operating system. Linux only so far; every other module is free of it.

mod cores;
mod generation;
mod log;
mod netlink;
mod notify;
mod peer;
mod sockopt;
mod vsock;

pub use cores::write_no_cores;
pub use generation::generation;
pub use log::{Level, start_log};
pub use netlink::{Connection, LoopbackAddress, LoopbackError, Owner, SockDiag};
pub use notify::{Readiness, notify, notify_alive, watchdog};
pub use peer::peer_of;
pub use vsock::{HOST_CID, connect_vsock, until_broken};

use std::time::{SystemTime, UNIX_EPOCH};

use moorline_shared::link::Moment;
use nix::time::{ClockId, clock_gettime};

use crate::mirror::Stamp;

/// The time on the clock that never steps back and counts suspend, in milliseconds since the kernel started.
pub fn now() -> Moment {
    // The clock exists in every kernel that has vsock; a call that can't fail needs no error.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Moment(0), |time| {
        let (seconds, nanos) = (time.tv_sec().cast_unsigned(), time.tv_nsec().cast_unsigned());
        Moment(seconds * 1_000 + nanos / 1_000_000)
    })
}

/// This moment by both clocks.
pub fn stamp() -> Stamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Stamp {
        boot_id: boot_id(),
        boottime_ms: now().0,
        calendar_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
    }
}

/// The kernel's boot id; zeros where it can't be read, for example without /proc.
pub fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    let mut id = [0; 16];
    if digits.len() == 32 {
        for (byte, pair) in id.iter_mut().zip(digits.chunks(2)) {
            *byte = u8::try_from(pair[0] << 4 | pair[1]).unwrap_or(0);
        }
    }
    id
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_boot_id_is_the_kernels() {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16));
        let hex: String = super::boot_id().iter().flat_map(digits).flatten().collect();
        if !text.is_empty() {
            assert_eq!(hex, text.trim().replace('-', ""));
        }
    }

    #[test]
    fn the_clock_goes_on() {
        let before = super::now();
        assert!(before.0 > 0 && super::now() >= before);
    }
}
