//! Which signed requests have been seen: none is taken twice.
//!
//! A signature is good for [`WINDOW_SECONDS`] on either side of the second in it, so a nonce has to be known for twice as
//! long and that second. Nonces are kept in two generations of that length; what is older than both is forgotten at once.
//!
//! What is remembered is bounded for each instance, for each account, and for all together, so that neither an instance
//! nor a tenant with many of them takes the room of others: the last quarter of it is for accounts that have taken little.
//! What a restart
//! forgets does no harm: every such request carries an idempotency key under its signature, and one that is sent again
//! gets the first one's answer.

use std::collections::{HashMap, HashSet};

use moorline_shared::signature::WINDOW_SECONDS;
use moorline_shared::{AccountId, Digest, InstanceId, Timestamp};

/// How long a generation lasts, in milliseconds.
const GENERATION_MS: i64 = (2 * WINDOW_SECONDS + 1) * 1_000;
/// The most requests of one instance in a generation: 136 a second.
pub const MOST_OF_ONE: u32 = 16_384;
/// The most requests of all together in a generation, at about 20 bytes each.
pub const MOST_OF_ALL: usize = 1 << 20;
/// Where the last quarter begins.
const LAST_QUARTER: usize = MOST_OF_ALL / 4 * 3;
/// The most requests of one account in a generation of which the last quarter has begun.
pub const MOST_OF_LATE: u32 = 16_384;

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
    accounts: HashMap<AccountId, u32>,
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
    /// Its account does.
    #[error("the instance's account has sent a great part of all requests in {} seconds", GENERATION_MS / 1_000)]
    TooManyOfAccount,
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
    pub fn take(
        &mut self,
        instance: InstanceId,
        account: &AccountId,
        nonce: &str,
        now: Timestamp,
    ) -> Result<(), NonceRefusal> {
        self.age(now);
        let mut seen = [0; 16];
        let digest = Digest::of_parts([&instance.bytes()[..], nonce.as_bytes()]);
        seen.copy_from_slice(&digest.bytes()[..16]);
        if self.young.seen.contains(&seen) || self.old.seen.contains(&seen) {
            return Err(NonceRefusal::Seen);
        }
        self.young.admit(instance, account)?;
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

impl Generation {
    /// Counts a request, if there is room for it.
    fn admit(&mut self, instance: InstanceId, account: &AccountId) -> Result<(), NonceRefusal> {
        let all = self.seen.len();
        if all >= MOST_OF_ALL {
            return Err(NonceRefusal::Full);
        }
        let of_account = self.accounts.get(account).copied().unwrap_or_default();
        if all >= LAST_QUARTER && of_account >= MOST_OF_LATE {
            return Err(NonceRefusal::TooManyOfAccount);
        }
        let of_one = self.counts.entry(instance).or_default();
        if *of_one >= MOST_OF_ONE {
            return Err(NonceRefusal::TooMany);
        }
        *of_one += 1;
        self.accounts.insert(account.clone(), of_account + 1);
        Ok(())
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

    fn account() -> AccountId {
        "a".parse().unwrap()
    }

    fn take(nonces: &mut Nonces, number: u8, nonce: &str, now: i64) -> Result<(), NonceRefusal> {
        nonces.take(instance(number), &account(), nonce, at(now))
    }

    proptest! {
        /// A signature is good until the last millisecond of its window, and its nonce is known until then.
        #[test]
        fn a_nonce_is_known_as_long_as_a_signature_is_good(phase in 0..2 * GENERATION_MS, other in 0..GENERATION_MS) {
            let mut nonces = Nonces::new(at(0));
            let window = WINDOW_SECONDS * 1_000;
            let made = window + phase;
            prop_assert_eq!(take(&mut nonces, 1, "it", made - window), Ok(()));
            prop_assert_eq!(take(&mut nonces, 1, "another", made - window + other), Ok(()));
            prop_assert_eq!(take(&mut nonces, 1, "it", made + window + 999), Err(NonceRefusal::Seen));
        }


        /// However requests and time go on, none is taken again while its signature could still be good.
        #[test]
        fn no_request_is_taken_twice_in_its_window(steps in prop::collection::vec((0_u8..3, 0_u8..8, 0_i64..90_000), 1..200)) {
            let mut nonces = Nonces::new(at(0));
            let (mut now, mut taken) = (0, HashMap::new());
            for (who, nonce, wait) in steps {
                now += wait;
                let result = take(&mut nonces, who, &nonce.to_string(), now);
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
            take(&mut nonces, 1, &n.to_string(), 0).unwrap();
        }
        assert_eq!(take(&mut nonces, 1, "more", 0), Err(NonceRefusal::TooMany));
        assert_eq!(take(&mut nonces, 2, "0", 0), Ok(()));
        assert_eq!(take(&mut nonces, 1, "0", GENERATION_MS), Err(NonceRefusal::Seen));
        assert_eq!(take(&mut nonces, 1, "more", GENERATION_MS), Ok(()));
    }

    #[test]
    fn no_account_takes_all_the_room() {
        let mut nonces = Nonces::new(at(0));
        let mut of = |account: &str, n: u32| {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&n.to_be_bytes());
            let (id, account) = (InstanceId::from_bytes(id), account.parse().unwrap());
            nonces.take(id, &account, "n", at(0))
        };
        let taken = (0..u32::MAX).take_while(|n| of("large", *n).is_ok()).count();
        assert_eq!(taken, LAST_QUARTER);
        for small in ["s1", "s2"] {
            let first = u32::from(small.as_bytes()[1]) << 24;
            let taken = (first..u32::MAX).take_while(|n| of(small, *n).is_ok()).count();
            assert_eq!(taken, usize::try_from(MOST_OF_LATE).unwrap(), "{small}");
        }
    }
}
