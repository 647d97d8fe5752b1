//! What the guests may take up of the daemon together: memory, each at its own bounds, and descriptors. A VM for whose guest
//! there is no room doesn't start, so that no guest is ever short of what it was promised, whatever the others do.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, getrlimit};
use rustix::system::sysinfo;

use super::poll::Token;
use crate::config::{CacheConfig, LinkConfig};

/// Descriptors that guests never get: the operator's sockets, the way to the control plane, files, sources of credentials.
const KEPT_BACK: usize = 256;
/// Descriptors that each guest may have whatever the others do: its channel, its connection, another one and the next, and
/// what watches its VM.
const PER_GUEST: usize = 10;
/// Connections without HELLO that a guest may have while there is no room for more: one that waits for its key, and one that
/// comes.
const WAITING_AT_LEAST: usize = 2;
/// And while there is room.
const WAITING_AT_MOST: usize = 64;

/// There is no room for another guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the host has room for {0} guests, and has them: end another VM, or raise link.guests if memory and descriptors allow it"
)]
pub struct Full(pub usize);

/// More guests are to be taken in than there are descriptors for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "link.guests is {guests}, for which the daemon needs {needed} descriptors, and it may have {limit}: raise the limit \
     (LimitNOFILE of its unit), or lower link.guests"
)]
pub struct TooMany {
    guests: usize,
    needed: usize,
    limit: usize,
}

/// What there is for guests, and what they have of it. All shards share one.
#[derive(Debug)]
pub(super) struct Room {
    guests: usize,
    taken: AtomicUsize,
    /// How many connections without HELLO there may be before each guest has the fewest.
    spare: usize,
    waiting: AtomicUsize,
}

impl Default for Room {
    /// Room for everybody.
    fn default() -> Self {
        Self::with(usize::MAX, usize::MAX)
    }
}

impl Room {
    /// As the configuration has it, or else as this machine has it: guests that could together fill half of its memory.
    pub(super) fn of(link: &LinkConfig, cache: &CacheConfig) -> Result<Self, TooMany> {
        let limit = getrlimit(Resource::Nofile).current;
        let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Self::within(link, cache, memory(), limit)
    }

    fn within(link: &LinkConfig, cache: &CacheConfig, memory: u64, limit: usize) -> Result<Self, TooMany> {
        let room = limit.saturating_sub(KEPT_BACK);
        let in_memory = usize::try_from(memory / 2 / link.guest_bytes(cache)).unwrap_or(usize::MAX);
        let guests = match link.guests.map(NonZeroUsize::get) {
            None => in_memory.min(room / PER_GUEST).max(1),
            Some(guests) if guests <= room / PER_GUEST => guests,
            Some(guests) => {
                let needed = KEPT_BACK + guests * PER_GUEST;
                return Err(TooMany {
                    guests,
                    needed,
                    limit,
                });
            }
        };
        Ok(Self::with(guests, room.saturating_sub(guests * PER_GUEST)))
    }

    fn with(guests: usize, spare: usize) -> Self {
        Self {
            guests,
            taken: AtomicUsize::new(0),
            spare,
            waiting: AtomicUsize::new(0),
        }
    }

    /// How many guests there is room for.
    pub(super) fn guests(&self) -> usize {
        self.guests
    }

    /// Takes in another guest, for as long as what this returns is there.
    pub(super) fn admit(self: &Arc<Self>) -> Result<Place, Full> {
        let more = |taken| (taken < self.guests).then_some(taken + 1);
        let admitted = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        admitted.map_err(|_| Full(self.guests))?;
        Ok(Place(self.clone()))
    }
}

/// How many bytes of memory the machine has.
fn memory() -> u64 {
    let info = sysinfo();
    // A word of 32 bits on some machines, and of 64 on others.
    #[allow(
        clippy::useless_conversion,
        reason = "the kernel's word has another width elsewhere"
    )]
    u64::from(info.totalram).saturating_mul(info.mem_unit.into())
}

/// A guest that was taken in. Dropping it makes room for another.
#[derive(Debug)]
pub(super) struct Place(Arc<Room>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connections of a guest that have not said HELLO, the oldest first.
#[derive(Debug)]
pub(super) struct Waiting {
    tokens: VecDeque<Token>,
    room: Arc<Room>,
}

impl Waiting {
    /// None.
    pub(super) fn new(room: Arc<Room>) -> Self {
        Self {
            tokens: VecDeque::new(),
            room,
        }
    }

    /// Adds one; returns the one that has to go for it. The one that is to be spared stays.
    pub(super) fn push(&mut self, token: Token, spared: Option<Token>) -> Option<Token> {
        let before = self.room.waiting.fetch_add(1, Ordering::Relaxed);
        self.tokens.push_back(token);
        let most = if before < self.room.spare {
            WAITING_AT_MOST
        } else {
            WAITING_AT_LEAST
        };
        if self.tokens.len() <= most {
            return None;
        }
        let oldest = self.iter().find(|other| Some(*other) != spared)?;
        self.remove(oldest);
        Some(oldest)
    }

    /// Lets go of one, if it is there.
    pub(super) fn remove(&mut self, token: Token) {
        if let Some(at) = self.tokens.iter().position(|other| *other == token) {
            self.tokens.remove(at);
            self.room.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = Token> {
        self.tokens.iter().copied()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.room.waiting.fetch_sub(self.tokens.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{Full, Room, Waiting};
    use crate::config::{CacheConfig, LinkConfig};
    use std::num::NonZeroUsize;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    fn room(guests: Option<usize>, memory: u64, descriptors: usize) -> Result<Room, String> {
        let link = LinkConfig {
            guests: guests.and_then(NonZeroUsize::new),
            ..LinkConfig::default()
        };
        Room::within(&link, &CacheConfig::default(), memory, descriptors).map_err(|error| error.to_string())
    }

    #[test]
    fn there_is_room_for_what_memory_and_descriptors_can_hold() {
        let of_one = LinkConfig::default().guest_bytes(&CacheConfig::default());
        assert_eq!(room(None, 2 * 100 * of_one, 1 << 20).unwrap().guests(), 100);
        assert_eq!(room(None, u64::MAX, 1_256).unwrap().guests(), 100);
        assert_eq!(
            room(None, 0, 0).unwrap().guests(),
            1,
            "there is a host for one guest"
        );
        let chosen = room(Some(1_000), 0, 1 << 20).unwrap();
        assert_eq!(
            chosen.guests(),
            1_000,
            "what the operator says goes before a guess"
        );
        let error = room(Some(1_000), u64::MAX, 1_024).unwrap_err();
        assert!(
            error.contains("10256") && error.contains("LimitNOFILE"),
            "{error}"
        );
    }

    #[test]
    fn row_19_a_guest_that_there_is_no_room_for_is_not_taken_in() {
        let room = Arc::new(Room::with(2, 0));
        let first = room.admit().unwrap();
        let _second = room.admit().unwrap();
        assert_eq!(room.admit().unwrap_err(), Full(2));
        drop(first);
        room.admit().unwrap();
    }

    #[test]
    fn row_13_guests_that_take_what_is_spare_leave_every_other_its_own() {
        let room = Arc::new(Room::with(2, 10));
        let mut greedy = Waiting::new(room.clone());
        assert!((0..10).all(|token| greedy.push(token, None).is_none()));
        assert_eq!(greedy.push(10, None), Some(0), "it goes on at its own expense");
        assert_eq!(greedy.push(11, Some(1)), Some(2));
        let mut modest = Waiting::new(room.clone());
        assert_eq!((modest.push(20, None), modest.push(21, Some(20))), (None, None));
        assert_eq!(modest.push(22, Some(20)), Some(21));
        drop(greedy);
        assert!((30..38).all(|token| modest.push(token, None).is_none()));
        drop(modest);
        assert_eq!(room.waiting.load(Ordering::Relaxed), 0);
    }
}
