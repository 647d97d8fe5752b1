//! A map in many parts, each with a lock of its own.
//!
//! Readers share a part's lock. Whoever writes holds it for one insertion into one part, with the value made before and
//! the old one dropped after.

use std::sync::{PoisonError, RwLock};

use super::table::Table;
use crate::identity::token::SessionId;

/// So many that a million sessions are a thousand in each.
const SHARDS: usize = 1024;

/// The map.
#[derive(Debug)]
pub(super) struct Shards<T> {
    parts: Box<[RwLock<Table<T>>]>,
}

impl<T> Default for Shards<T> {
    fn default() -> Self {
        Self {
            parts: (0..SHARDS).map(|_| RwLock::default()).collect(),
        }
    }
}

impl<T> Shards<T> {
    /// Ids are digests, so that any bytes of theirs spread them.
    fn part(&self, id: &SessionId) -> &RwLock<Table<T>> {
        let [first, second, ..] = *id.bytes();
        &self.parts[usize::from(u16::from_be_bytes([first, second])) % SHARDS]
    }

    /// Hands what is kept under `id` to `look`, which must not take long.
    pub(super) fn read<R>(&self, id: &SessionId, look: impl FnOnce(Option<&T>) -> R) -> R {
        // A part is whole whatever panicked: an insertion is done or not.
        let part = self.part(id).read().unwrap_or_else(PoisonError::into_inner);
        look(part.get(id))
    }

    pub(super) fn put(&self, id: SessionId, value: T) {
        let mut part = self.part(&id).write().unwrap_or_else(PoisonError::into_inner);
        let old = part.insert(id, value);
        drop(part);
        drop(old);
    }

    pub(super) fn remove(&self, id: &SessionId) {
        let mut part = self.part(id).write().unwrap_or_else(PoisonError::into_inner);
        let old = part.remove(id);
        drop(part);
        drop(old);
    }

    pub(super) fn clear(&self) {
        for part in &self.parts {
            drop(std::mem::take(
                &mut *part.write().unwrap_or_else(PoisonError::into_inner),
            ));
        }
    }

    /// Looks at all of them, a part at a time.
    pub(super) fn fold<A>(&self, mut all: A, mut with: impl FnMut(A, &T) -> A) -> A {
        for part in &self.parts {
            let part = part.read().unwrap_or_else(PoisonError::into_inner);
            all = part.values().fold(all, &mut with);
        }
        all
    }
}
