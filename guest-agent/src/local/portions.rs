//! A bound on what answers to users hold that the mirror doesn't hold anyway: copies of other instances' data, for
//! clients that take their time to read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;

/// What the answers to all users together may hold, in bytes: eight of the longest values.
const MOST: usize = 2 * 1024 * 1024;

/// What is left of the bound.
#[derive(Clone, Debug)]
pub(super) struct Portions(Arc<AtomicUsize>);

impl Default for Portions {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(MOST)))
    }
}

impl Portions {
    /// So much of it, if so much is left.
    pub(super) fn take(&self, bytes: usize) -> Option<Portion> {
        let taken = self
            .0
            .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes));
        let of = taken.ok().map(|_| Arc::clone(&self.0));
        of.map(|of| Portion { of: Some(of), bytes })
    }
}

/// A part of the bound; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Portion {
    of: Option<Arc<AtomicUsize>>,
    bytes: usize,
}

impl Portion {
    /// What counts against no bound.
    pub(super) fn unbounded() -> Self {
        Self { of: None, bytes: 0 }
    }

    /// These bytes, with which the portion is given back.
    pub(super) fn holding(self, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(Held {
            bytes,
            _portion: self,
        })
    }
}

impl Drop for Portion {
    fn drop(&mut self) {
        if let Some(of) = &self.of {
            of.fetch_add(self.bytes, Relaxed);
        }
    }
}

struct Held {
    bytes: Vec<u8>,
    _portion: Portion,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST, Portions};

    #[test]
    fn what_is_held_counts_until_its_last_copy_goes() {
        let portions = Portions::default();
        let held = portions.take(MOST).unwrap().holding(vec![1, 2, 3]);
        let copy = held.slice(1..2);
        drop(held);
        assert!(portions.take(1).is_none());
        assert_eq!(&copy[..], [2]);
        drop(copy);
        assert!(portions.take(MOST).is_some());
        assert!(portions.take(MOST + 1).is_none());
    }
}
