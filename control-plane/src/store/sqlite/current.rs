//! The newest version of each key that is in use, in memory, bounded in bytes.
//!
//! Only the committer changes what is kept, in the order of commits and before a commit becomes the head. A
//! reader that had to ask the database may leave what it found, but only if the committer changed nothing
//! near it meanwhile: the reader's version could be the older one.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::rows::{Stamp, Stored};
use crate::store::key::Key;
use crate::store::transaction::Versioned;
use crate::store::watch::{Batch, Event};

/// Readers and the committer meet on one shard's lock only if their keys fall together.
const SHARDS: usize = 16;
/// A value that would take more than one part in this of its shard stays on disk.
const LARGEST_PART: usize = 8;

#[derive(Debug)]
pub(super) struct Current {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    shard_bytes: usize,
}

/// What a look-up found.
pub(super) enum Found {
    /// The answer.
    Here(Option<Versioned>),
    /// The database has it; the ticket lets the finder leave it here.
    Elsewhere(Ticket),
}

/// What a guard's look-up found.
pub(super) enum FoundStamp {
    Here(Option<Stamp>),
    Elsewhere,
}

/// The state of a shard when it lacked a key: the last transaction that changed the shard.
#[derive(Clone, Copy)]
pub(super) struct Ticket(u64);

#[derive(Debug, Default)]
struct Shard {
    slots: HashMap<Key, Slot>,
    /// Each key of `slots` once: the hand of the clock that chooses what to drop.
    clock: VecDeque<Key>,
    bytes: usize,
    changed: u64,
}

#[derive(Debug)]
struct Slot {
    modified: u64,
    held: Held,
    used: bool,
}

#[derive(Debug)]
enum Held {
    Value(Versioned),
    Absent,
    /// Too large to be kept here.
    OnDisk,
}

impl Current {
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            shards: Default::default(),
            hasher: RandomState::new(),
            shard_bytes: bytes / SHARDS,
        }
    }

    /// The value of `key` at revision `at`, if it is the newest one and known.
    pub(super) fn get(&self, key: &Key, at: u64) -> Found {
        let mut shard = self.shard(key);
        let elsewhere = Found::Elsewhere(Ticket(shard.changed));
        let Some(slot) = shard.slots.get_mut(key).filter(|slot| slot.modified <= at) else {
            return elsewhere;
        };
        slot.used = true;
        match &slot.held {
            Held::Value(value) => Found::Here(Some(value.clone())),
            Held::Absent => Found::Here(None),
            Held::OnDisk => elsewhere,
        }
    }

    /// The newest state of `key` without its value.
    pub(super) fn stamp(&self, key: &Key) -> FoundStamp {
        match self.shard(key).slots.get(key).map(|slot| &slot.held) {
            Some(Held::Value(value)) => FoundStamp::Here(Some(value.into())),
            Some(Held::Absent) => FoundStamp::Here(None),
            Some(Held::OnDisk) | None => FoundStamp::Elsewhere,
        }
    }

    /// Keeps what a reader found to be the newest version in the database, unless it may be older by now.
    pub(super) fn offer(&self, key: &Key, ticket: Ticket, found: Option<&Stored>) {
        let mut shard = self.shard(key);
        if shard.changed == ticket.0 && !shard.slots.contains_key(key) {
            let modified = found.map_or(0, |stored| stored.id.n());
            let value = found.and_then(|stored| stored.value.clone());
            shard.keep(&key.detached(), modified, value, self.shard_bytes);
        }
    }

    /// Takes over a committed transaction.
    pub(super) fn apply(&self, batch: &Batch) {
        for Event { key, value } in &*batch.events {
            let mut shard = self.shard(key);
            shard.changed = batch.n;
            shard.keep(key, batch.n, value.clone(), self.shard_bytes);
        }
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(key).to_le_bytes();
        self.shards[usize::from(hash[0]) % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn keep(&mut self, key: &Key, modified: u64, value: Option<Versioned>, bound: usize) {
        let held = match value {
            Some(value) if value.value.len() > bound / LARGEST_PART => Held::OnDisk,
            Some(value) => Held::Value(value),
            None => Held::Absent,
        };
        self.bytes += held.weight();
        if let Some(slot) = self.slots.get_mut(key) {
            self.bytes -= slot.held.weight();
            (slot.modified, slot.held) = (modified, held);
        } else {
            self.bytes += Slot::weight(key);
            self.clock.push_back(key.clone());
            self.slots.insert(
                key.clone(),
                Slot {
                    modified,
                    held,
                    used: false,
                },
            );
        }
        self.shrink(bound);
    }

    /// Drops what was not used since the hand passed it last, until the bound holds.
    fn shrink(&mut self, bound: usize) {
        while self.bytes > bound {
            let Some(key) = self.clock.pop_front() else { return };
            match self.slots.get_mut(&key) {
                Some(slot) if slot.used => {
                    slot.used = false;
                    self.clock.push_back(key);
                }
                Some(_) => self.drop_slot(&key),
                None => {}
            }
        }
    }

    fn drop_slot(&mut self, key: &Key) {
        if let Some(slot) = self.slots.remove(key) {
            self.bytes -= Slot::weight(key) + slot.held.weight();
        }
    }
}

impl Slot {
    /// What a slot takes besides its value: itself, its key, and the key's place in the clock.
    fn weight(key: &Key) -> usize {
        size_of::<Self>() + 2 * size_of::<Key>() + key.as_bytes().len()
    }
}

impl Held {
    fn weight(&self) -> usize {
        match self {
            Self::Value(value) => value.value.len(),
            Self::Absent | Self::OnDisk => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::store::sqlite::rows::RowId;

    fn version(modified: u64) -> Versioned {
        Versioned {
            value: Bytes::from_static(b"x"),
            created: 1,
            modified,
            version: modified,
        }
    }

    fn batch(n: u64, keys: impl IntoIterator<Item = Key>) -> Batch {
        let events = keys.into_iter().map(|key| Event {
            key,
            value: Some(version(n)),
        });
        Batch {
            n,
            events: events.collect::<Arc<[_]>>(),
        }
    }

    #[test]
    fn a_reader_that_was_overtaken_leaves_nothing() {
        let current = Current::new(16 << 10);
        let key = Key::try_from("key").unwrap();
        let Found::Elsewhere(ticket) = current.get(&key, 1) else {
            panic!("it isn't empty")
        };
        // The key changes, and enough others do for it to be dropped again.
        current.apply(&batch(2, [key.clone()]));
        current.apply(&batch(
            3,
            (0..2000).map(|i| Key::try_from(format!("k{i}")).unwrap()),
        ));
        assert!(matches!(current.get(&key, 3), Found::Elsewhere(_)));
        let old = Stored {
            id: RowId::new(1, 0),
            value: Some(version(1)),
        };
        current.offer(&key, ticket, Some(&old));
        assert!(matches!(current.get(&key, 3), Found::Elsewhere(_)));
    }

    #[test]
    fn what_is_used_stays() {
        let current = Current::new(16 << 10);
        let key = Key::try_from("key").unwrap();
        current.apply(&batch(1, [key.clone()]));
        for i in 0..2000 {
            current.apply(&batch(2, [Key::try_from(format!("k{i}")).unwrap()]));
            assert!(matches!(current.get(&key, 2), Found::Here(Some(_))), "{i}");
        }
        let bytes: usize = current
            .shards
            .iter()
            .map(|shard| shard.lock().unwrap().bytes)
            .sum();
        assert!(bytes <= 16 << 10, "{bytes}");
    }
}
