//! The last transactions in memory, bounded in bytes: one ring for all watchers.
//!
//! Watchers take from it at their own pace and hold no queue of their own, so that a slow one costs nothing
//! and holds up nobody; it finds what fell out of the ring on disk.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::watch::Batch;

#[derive(Debug)]
pub(super) struct Recent {
    ring: Mutex<Ring>,
    bound: usize,
}

#[derive(Debug, Default)]
struct Ring {
    /// Batches with consecutive `n`.
    batches: VecDeque<Batch>,
    bytes: usize,
}

impl Recent {
    pub(super) fn new(bound: usize) -> Self {
        Self {
            ring: Mutex::default(),
            bound,
        }
    }

    pub(super) fn push(&self, batches: impl IntoIterator<Item = Batch>) {
        let mut ring = self.lock();
        for batch in batches {
            ring.bytes += batch.weight();
            ring.batches.push_back(batch);
        }
        while ring.bytes > self.bound {
            let Some(oldest) = ring.batches.pop_front() else {
                break;
            };
            ring.bytes -= oldest.weight();
        }
    }

    /// Transaction `n`, if it is still here.
    pub(super) fn get(&self, n: u64) -> Option<Batch> {
        let ring = self.lock();
        let place = n.checked_sub(ring.batches.front()?.n)?;
        ring.batches.get(usize::try_from(place).ok()?).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
