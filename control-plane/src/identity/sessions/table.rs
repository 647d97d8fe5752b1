//! A hash table in one piece, for what doesn't fit into a cache of the processor: an id is looked for in the place that
//! its hash names, and in those after it, so that nearly every look-up touches one cache line.

use std::hash::BuildHasher as _;

use foldhash::fast::RandomState;

use crate::identity::token::SessionId;

/// How many places the smallest table has.
const SMALLEST: usize = 8;

/// The table. There is always a free place, at which every search ends.
#[derive(Debug)]
pub(super) struct Table<T> {
    /// A power of two of them, or none.
    places: Box<[Place<T>]>,
    taken: usize,
    /// Ids are digests of what somebody chose, so that whoever tries long enough finds many that are alike in places:
    /// the hash has a secret of this process's.
    hasher: RandomState,
}

/// A cache line of its own: what lies across two costs two misses.
#[derive(Debug)]
#[repr(align(64))]
struct Place<T>(Option<(SessionId, T)>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            places: Box::default(),
            taken: 0,
            hasher: RandomState::default(),
        }
    }
}

impl<T> Table<T> {
    /// What is kept under `id`.
    pub(super) fn get(&self, id: &SessionId) -> Option<&T> {
        if self.places.is_empty() {
            return None;
        }
        let (_, value) = self.places[self.search(id)].0.as_ref()?;
        Some(value)
    }

    /// Keeps `value` under `id`, and returns what was kept there before.
    pub(super) fn insert(&mut self, id: SessionId, value: T) -> Option<T> {
        // A quarter is free, so that searches are short.
        if self.taken + 1 > self.places.len() / 4 * 3 {
            self.grow();
        }
        let at = self.search(&id);
        let old = self.places[at].0.replace((id, value));
        self.taken += usize::from(old.is_none());
        old.map(|(_, value)| value)
    }

    /// Forgets what is kept under `id`, and returns it.
    pub(super) fn remove(&mut self, id: &SessionId) -> Option<T> {
        if self.places.is_empty() {
            return None;
        }
        let mut free = self.search(id);
        let (_, removed) = self.places[free].0.take()?;
        self.taken -= 1;
        // What was pushed on past the place that is free now moves back, or nobody would find it any more.
        let mut at = self.after(free);
        while let Some((other, _)) = &self.places[at].0 {
            let home = self.home(other);
            if self.distance(home, at) >= self.distance(free, at) {
                self.places.swap(free, at);
                free = at;
            }
            at = self.after(at);
        }
        Some(removed)
    }

    /// All that is kept, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        let kept = self.places.iter().filter_map(|place| place.0.as_ref());
        kept.map(|(_, value)| value)
    }

    /// The place that has `id`, or the free one where it would be put.
    fn search(&self, id: &SessionId) -> usize {
        let mut at = self.home(id);
        while self.places[at].0.as_ref().is_some_and(|(other, _)| other != id) {
            at = self.after(at);
        }
        at
    }

    /// The place that the hash of `id` names.
    fn home(&self, id: &SessionId) -> usize {
        let number = u128::from_ne_bytes(*id.bytes());
        #[expect(clippy::cast_possible_truncation, reason = "any bits of the hash do")]
        let hash = self.hasher.hash_one(number) as usize;
        hash & (self.places.len() - 1)
    }

    const fn after(&self, at: usize) -> usize {
        (at + 1) & (self.places.len() - 1)
    }

    /// How many places on from `from` the place `to` is.
    const fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.places.len() - 1)
    }

    fn grow(&mut self) {
        let larger = (self.places.len() * 2).max(SMALLEST);
        let places = (0..larger).map(|_| Place(None)).collect();
        for (id, value) in std::mem::replace(&mut self.places, places)
            .into_iter()
            .filter_map(|place| place.0)
        {
            let at = self.search(&id);
            self.places[at].0 = Some((id, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::{SessionId, Table};

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u8, u32),
        Remove(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..48_u8, any::<u32>()).prop_map(|(id, value)| Step::Insert(id, value)),
            (0..48_u8).prop_map(Step::Remove),
        ]
    }

    proptest! {
        /// Few ids and many steps, so that searches collide, places are freed in their midst, and the table grows.
        #[test]
        fn it_holds_what_a_map_holds(steps in prop::collection::vec(step(), 0..400)) {
            let (mut table, mut map) = (Table::default(), HashMap::new());
            for step in steps {
                match step {
                    Step::Insert(id, value) => {
                        prop_assert_eq!(table.insert(SessionId::from_bytes([id; 16]), value), map.insert(id, value));
                    }
                    Step::Remove(id) => {
                        prop_assert_eq!(table.remove(&SessionId::from_bytes([id; 16])), map.remove(&id));
                    }
                }
                for id in 0..48 {
                    prop_assert_eq!(table.get(&SessionId::from_bytes([id; 16])), map.get(&id));
                }
                prop_assert_eq!(table.values().count(), map.len());
            }
        }
    }

    #[test]
    fn a_session_takes_one_cache_line() {
        assert_eq!(size_of::<super::Place<super::super::entry::Entry>>(), 64);
    }
}
