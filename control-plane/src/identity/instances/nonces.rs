//! Which signed requests have been seen: none is taken twice.
//!
//! A signature is good for [`WINDOW_SECONDS`] on either side of the time in it, so a nonce has to be known for twice as
//! long. Nonces are kept in two generations of that length; what is older than both is forgotten at once. What a restart
//! forgets does no harm: every such request carries an idempotency key under its signature, and one that is sent again
//! gets the first one's answer.

use std::collections::{HashMap, HashSet};

use moorline_shared::signature::WINDOW_SECONDS;
use moorline_shared::{Digest, InstanceId, Timestamp};

/// How long a generation lasts, in milliseconds.
const GENERATION_MS: i64 = 2 * WINDOW_SECONDS * 1_000;
/// The most requests of one instance in a generation: 136 a second.
pub const MOST_OF_ONE: u32 = 16_384;
/// The most requests of all together in a generation, at about 20 bytes each.
pub const MOST_OF_ALL: usize = 1 << 20;

/// The nonces of the last minutes.
#[derive(Debug)]
pub struct Nonces {
    begun: Timestamp,
    young: Generation,
    old: Generation,
}

#[derive(Debug, Default)]
struct Generation {
    seen: HashSet<[u8; 16]>,
    counts: HashMap<InstanceId, u32>,
}

/// Why a nonce is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NonceRefusal {
    /// It was there before.
    #[error("the request was sent before")]
    Seen,
    /// The instance sends too many.
    #[error("the instance has sent {MOST_OF_ONE} requests in {} seconds", GENERATION_MS / 1_000)]
    TooMany,
    /// All instances together do.
    #[error("instances have sent {MOST_OF_ALL} requests in {} seconds", GENERATION_MS / 1_000)]
    Full,
}

impl Nonces {
    /// Nothing was seen until `now`.
    pub fn new(now: Timestamp) -> Self {
        Self {
            begun: now,
            young: Generation::default(),
            old: Generation::default(),
        }
    }

    /// Takes the nonce of a request of `instance` that is in time and whose signature was checked.
    pub fn take(&mut self, instance: InstanceId, nonce: &str, now: Timestamp) -> Result<(), NonceRefusal> {
        self.age(now);
        let mut seen = [0; 16];
        let digest = Digest::of_parts([&instance.bytes()[..], nonce.as_bytes()]);
        seen.copy_from_slice(&digest.bytes()[..16]);
        if self.young.seen.contains(&seen) || self.old.seen.contains(&seen) {
            return Err(NonceRefusal::Seen);
        }
        if self.young.seen.len() >= MOST_OF_ALL {
            return Err(NonceRefusal::Full);
        }
        let count = self.young.counts.entry(instance).or_default();
        if *count >= MOST_OF_ONE {
            return Err(NonceRefusal::TooMany);
        }
        *count += 1;
        self.young.seen.insert(seen);
        Ok(())
    }

    fn age(&mut self, now: Timestamp) {
        let age = now.millis().saturating_sub(self.begun.millis());
        if age < GENERATION_MS {
            return;
        }
        let young = std::mem::take(&mut self.young);
        self.old = if age < 2 * GENERATION_MS {
            young
        } else {
            Generation::default()
        };
        self.begun = now;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis).unwrap()
    }

    fn instance(number: u8) -> InstanceId {
        InstanceId::from_bytes([number; 16])
    }

    proptest! {
        /// However requests and time go on, none is taken again while its signature could still be good.
        #[test]
        fn no_request_is_taken_twice_in_its_window(steps in prop::collection::vec((0_u8..3, 0_u8..8, 0_i64..90_000), 1..200)) {
            let mut nonces = Nonces::new(at(0));
            let (mut now, mut taken) = (0, HashMap::new());
            for (who, nonce, wait) in steps {
                now += wait;
                let result = nonces.take(instance(who), &nonce.to_string(), at(now));
                let before = taken.get(&(who, nonce)).copied();
                if before.is_some_and(|before| now - before < GENERATION_MS) {
                    prop_assert_eq!(result, Err(NonceRefusal::Seen));
                }
                if before.is_none_or(|before| now - before >= 3 * GENERATION_MS) {
                    prop_assert_eq!(result, Ok(()));
                }
                if result.is_ok() {
                    taken.insert((who, nonce), now);
                }
            }
        }
    }

    #[test]
    fn one_instance_takes_no_others_room() {
        let mut nonces = Nonces::new(at(0));
        for n in 0..MOST_OF_ONE {
            nonces.take(instance(1), &n.to_string(), at(0)).unwrap();
        }
        assert_eq!(
            nonces.take(instance(1), "more", at(0)),
            Err(NonceRefusal::TooMany)
        );
        assert_eq!(nonces.take(instance(2), "0", at(0)), Ok(()));
        assert_eq!(
            nonces.take(instance(1), "0", at(GENERATION_MS)),
            Err(NonceRefusal::Seen)
        );
        assert_eq!(nonces.take(instance(1), "more", at(GENERATION_MS)), Ok(()));
    }
}
