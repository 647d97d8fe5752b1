//! A store in memory, for what is tried and thrown away: simulations, forks, tests. Nothing of it is kept.
//!
//! The state at each revision is a map that shares with the one before what they have in common, so that a revision
//! costs what it changes, and a [`fork`](Memory::fork) nothing. No call waits for anything but [`Tail::next`], and that
//! for a transaction: who polls the futures of the others once has their answer, without a runtime.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imbl::OrdMap;
use tokio::sync::watch;

use super::error::{Cause, Closed, CommitError, CompactError, ReadError, WatchError};
use super::key::{End, Key, Range};
use super::sqlite::Stats;
use super::transaction::{Guard, Transaction, Versioned, Write};
use super::watch::{Batch, Event};
use super::{Page, Store};

type Keys = OrdMap<Key, Versioned>;

/// The store.
#[derive(Debug)]
pub struct Memory {
    epoch: u64,
    past: Mutex<Past>,
    progress: watch::Sender<Progress>,
    /// Nothing is counted: nothing is made durable.
    stats: Stats,
}

/// What can be read: the states from the oldest on, and the transactions that led from each to the next.
#[derive(Clone, Debug)]
struct Past {
    oldest: u64,
    states: VecDeque<Keys>,
    batches: VecDeque<Batch>,
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    head: u64,
    life: Life,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Open,
    Closed,
}

impl Past {
    /// One state, of which nothing is known but what it is.
    fn from_state(at: u64, keys: Keys) -> Self {
        Self {
            oldest: at,
            states: [keys].into(),
            batches: VecDeque::new(),
        }
    }

    fn head(&self) -> u64 {
        self.oldest + self.batches.len() as u64
    }

    fn place(&self, at: u64) -> Option<usize> {
        usize::try_from(at.checked_sub(self.oldest)?).ok()
    }

    fn at(&self, at: u64) -> Result<&Keys, ReadError> {
        let oldest = self.oldest;
        let place = self.place(at).ok_or(ReadError::Compacted { asked: at, oldest })?;
        let head = self.head();
        self.states.get(place).ok_or(ReadError::Ahead { asked: at, head })
    }

    fn present(&self) -> &Keys {
        self.states.back().expect("there is always a present state")
    }

    fn commit(&mut self, transaction: Transaction) -> Result<u64, CommitError> {
        transaction.check()?;
        let mut keys = self.present().clone();
        if let Some((guard, broken)) = (0..)
            .zip(&transaction.guards)
            .find(|(_, guard)| !holds(guard, &keys))
        {
            let key = broken.key().clone();
            return Err(CommitError::Conflict { guard, key });
        }
        let n = self.head() + 1;
        let events = transaction.writes.into_iter();
        let events = events.filter_map(|write| apply(&mut keys, write, n)).collect();
        self.states.push_back(keys);
        self.batches.push_back(Batch { n, events });
        Ok(n)
    }

    fn compact(&mut self, to: u64) -> Result<(), CompactError> {
        let head = self.head();
        if to > head {
            return Err(CompactError::Ahead { asked: to, head });
        }
        while self.oldest < to {
            self.states.pop_front();
            self.batches.pop_front();
            self.oldest += 1;
        }
        Ok(())
    }
}

fn holds(guard: &Guard, keys: &Keys) -> bool {
    let found = keys.get(guard.key());
    match guard {
        Guard::Absent(_) => found.is_none(),
        Guard::Exists(_) => found.is_some(),
        Guard::At(_, n) => found.is_some_and(|found| found.modified == *n),
        Guard::Version(_, version) => found.is_some_and(|found| found.version == *version),
    }
}

/// Writes, and says what changed with it; nothing does if what is deleted was not there.
fn apply(keys: &mut Keys, write: Write, n: u64) -> Option<Event> {
    match write {
        Write::Put(key, value) => {
            let old = keys.get(&key);
            let put = Versioned {
                value,
                created: old.map_or(n, |old| old.created),
                modified: n,
                version: old.map_or(1, |old| old.version + 1),
            };
            keys.insert(key.clone(), put.clone());
            let value = Some(put);
            Some(Event { key, value })
        }
        Write::Delete(key) => {
            keys.remove(&key)?;
            Some(Event { key, value: None })
        }
    }
}

impl Memory {
    /// An empty store whose revisions are of `epoch`.
    pub fn new(epoch: u64) -> Self {
        Self::from_past(epoch, Past::from_state(0, Keys::new()))
    }

    /// Another store, whose revisions are of `epoch`, that has what this one had at revision `at`, and nothing that was
    /// before. With a later epoch it is what a restored backup is.
    ///
    /// # Errors
    /// [`ReadError::Compacted`] or [`ReadError::Ahead`] if `at` can't be read.
    pub fn fork(&self, at: u64, epoch: u64) -> Result<Self, ReadError> {
        let keys = self.past().at(at)?.clone();
        Ok(Self::from_past(epoch, Past::from_state(at, keys)))
    }

    fn from_past(epoch: u64, past: Past) -> Self {
        let (head, life) = (past.head(), Life::Open);
        Self {
            epoch,
            past: past.into(),
            progress: watch::Sender::new(Progress { head, life }),
            stats: Stats::default(),
        }
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        // A panic while the lock is held leaves a past that is whole, or one that lacks what was never answered.
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) const fn stats(&self) -> &Stats {
        &self.stats
    }

    pub(super) fn head(&self) -> u64 {
        self.past().head()
    }

    pub(super) fn read(&self, at: u64, keys: &[Key]) -> Result<Vec<Option<Versioned>>, ReadError> {
        let past = self.past();
        let state = past.at(at)?;
        Ok(keys.iter().map(|key| state.get(key).cloned()).collect())
    }

    pub(super) fn range(&self, at: u64, range: &Range) -> Result<Page, ReadError> {
        let past = self.past();
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let mut rest = past
            .at(at)?
            .range::<_, [u8]>((Bound::Included(range.start.as_ref()), Bound::Unbounded))
            .take_while(|(key, _)| match &range.end {
                End::Before(end) => key.as_bytes() < end.as_ref(),
                End::Open => true,
            });
        for (key, kept) in &mut rest {
            bytes += key.as_bytes().len() + kept.value.len();
            entries.push((key.clone(), kept.clone()));
            if entries.len() >= range.page_limit() || bytes >= Range::MAX_BYTES {
                break;
            }
        }
        let next = rest
            .next()
            .and_then(|_| entries.last().map(|(key, _)| key.successor()));
        Ok(Page { entries, next })
    }

    pub(super) fn commit(&self, transaction: Transaction) -> Result<u64, CommitError> {
        // Held until the watches know, so that none hears of a later transaction first.
        let mut past = self.past();
        if self.progress.borrow().life == Life::Closed {
            let source = Cause::new(Closed);
            return Err(CommitError::Unavailable { source });
        }
        let n = past.commit(transaction)?;
        self.progress.send_modify(|progress| progress.head = n);
        Ok(n)
    }

    pub(super) fn watch(self: &Arc<Self>, after: u64) -> Result<Tail, ReadError> {
        self.past().at(after)?;
        Ok(Tail {
            progress: self.progress.subscribe(),
            memory: self.clone(),
            after,
        })
    }

    pub(super) fn compact(&self, to: u64) -> Result<(), CompactError> {
        self.past().compact(to)
    }

    pub(super) fn close(&self) {
        self.progress.send_modify(|progress| progress.life = Life::Closed);
    }
}

impl From<Memory> for Store {
    fn from(memory: Memory) -> Self {
        Self::Memory(Arc::new(memory))
    }
}

/// A watch of this backend.
#[derive(Debug)]
pub struct Tail {
    memory: Arc<Memory>,
    progress: watch::Receiver<Progress>,
    after: u64,
}

impl Tail {
    /// See [`crate::store::Watch::next`].
    pub(in crate::store) async fn next(&mut self) -> Result<Batch, WatchError> {
        let after = self.after;
        let ready = self
            .progress
            .wait_for(|now| now.head > after || now.life == Life::Closed)
            .await;
        if ready.map_or(true, |now| now.head <= after) {
            return Err(Closed.into());
        }
        let batch = self.take()?;
        self.after = batch.n;
        Ok(batch)
    }

    fn take(&self) -> Result<Batch, WatchError> {
        let past = self.memory.past();
        let (after, oldest) = (self.after, past.oldest);
        let place = past.place(after).ok_or(WatchError::Compacted { after, oldest })?;
        past.batches.get(place).cloned().ok_or(Closed.into())
    }
}

#[cfg(test)]
mod tests {
    use super::Memory;
    use crate::store::conformance::{commit, conformance, put, value};
    use crate::store::{ReadError, Store};

    fn fresh() -> (Store, ()) {
        (Memory::new(7).into(), ())
    }
    conformance!(fresh);

    #[tokio::test]
    async fn a_fork_has_the_state_and_goes_its_own_way_in_its_own_epoch() {
        let Store::Memory(memory) = Store::from(Memory::new(1)) else {
            unreachable!("it was made in memory")
        };
        let store = Store::Memory(memory.clone());
        commit(&store, [put("a", "1")]).await;
        commit(&store, [put("a", "2")]).await;
        let fork = Store::from(memory.fork(1, 2).unwrap());
        assert_eq!((fork.epoch(), fork.head().await.unwrap()), (2, 1));
        assert_eq!(commit(&fork, [put("b", "1")]).await, 2);
        assert_eq!(value(&fork, 2, "a").await, "1");
        assert_eq!(value(&store, 2, "b").await, "-");
        assert!(matches!(
            fork.watch(0).await,
            Err(ReadError::Compacted { asked: 0, oldest: 1 })
        ));
    }
}
