//! A session: what somebody who proved who they are has until it ends, and the grants that hang on it.
//!
//! Tokens are not stored, so that a code or a refresh token is good only once has to be kept here: in at most
//! [`MAX_GRANTS`] slots, each of which says how often its tokens have been exchanged. An exchange is one change of the
//! session, guarded by its revision, so of two at once one wins and the other sees what it did.
//!
//! | the token's counter | then |
//! |---|---|
//! | is the slot's | it is exchanged, and the slot counts one more |
//! | is one less, at most [`AGAIN_MS`] after the exchange, by the same client | the same again: an answer was lost |
//! | is anything else | the slot dies: somebody else has the token too |
//!
//! What is compared are counters, never times of issue: clocks differ and counters don't.

use moorline_shared::Timestamp;
use moorline_shared::id::ClientName;
use serde::{Deserialize, Serialize};

use super::token::Grant;

/// The most grants that a session has at once.
pub const MAX_GRANTS: usize = 32;

/// For how long after an exchange the one before it may be repeated, in milliseconds.
pub const AGAIN_MS: u64 = 10_000;

/// The grants of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// By number of the slot. A slot that nobody has had yet is not there.
    slots: Vec<Slot>,
}

/// A place for a grant. It is used again when its grant is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Slot {
    /// How many grants have had this place before. A token of an earlier one is not one of this.
    generation: u32,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Live {
        /// Whom its tokens were given to.
        client: Option<ClientName>,
        /// How often they have been exchanged.
        counter: u32,
        /// When that was last; when the grant was made, if never.
        exchanged: Timestamp,
        expires: Timestamp,
    },
    Dead,
}

/// Why there is no further grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the session has {MAX_GRANTS} grants that are still good; end one of them, or wait until one expires"
)]
pub struct Full;

/// What showing a code or a refresh token led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// It was good; tokens of this grant take its place.
    Done(Grant),
    /// It had been exchanged just now, and whoever did it asks again; tokens of this grant are what they should have.
    Again(Grant),
    /// It is not good, and nothing has changed.
    Invalid,
    /// It is not good because it was exchanged before, so two have it: the grant is dead from now on.
    Reused,
}

impl Grants {
    /// Gives a place to a new grant.
    ///
    /// # Errors
    /// [`Full`] if every place has a grant that is still good; none of those is ever ended to make room.
    pub fn begin(
        &mut self,
        client: Option<ClientName>,
        now: Timestamp,
        expires: Timestamp,
    ) -> Result<Grant, Full> {
        let place = match self.slots.iter().position(|slot| !slot.is_live(now)) {
            Some(place) => place,
            None if self.slots.len() < MAX_GRANTS => self.slots.len(),
            None => return Err(Full),
        };
        let generation = self
            .slots
            .get(place)
            .map_or(0, |old| old.generation.wrapping_add(1));
        let state = State::Live {
            client,
            counter: 0,
            exchanged: now,
            expires,
        };
        let slot = Slot { generation, state };
        match self.slots.get_mut(place) {
            Some(old) => *old = slot,
            None => self.slots.push(slot),
        }
        Ok(Grant {
            slot: u8::try_from(place).expect("there are at most 32"),
            generation,
            counter: 0,
        })
    }

    /// Exchanges the token of `grant`, shown by `client`, for what comes after it.
    pub fn exchange(&mut self, grant: Grant, client: Option<&ClientName>, now: Timestamp) -> Exchange {
        let Some(slot) = self.slots.get_mut(usize::from(grant.slot)) else {
            return Exchange::Invalid;
        };
        if slot.generation != grant.generation || !slot.is_live(now) {
            return Exchange::Invalid;
        }
        let State::Live {
            client: owner,
            counter,
            exchanged,
            ..
        } = &mut slot.state
        else {
            return Exchange::Invalid;
        };
        let by_owner = owner.as_ref() == client;
        if grant.counter == *counter && by_owner {
            *counter = counter.wrapping_add(1);
            *exchanged = now;
            return Exchange::Done(Grant {
                counter: *counter,
                ..grant
            });
        }
        let just_now = exchanged.millis_until(now) <= AGAIN_MS;
        if grant.counter.wrapping_add(1) == *counter && by_owner && just_now {
            return Exchange::Again(Grant {
                counter: *counter,
                ..grant
            });
        }
        slot.state = State::Dead;
        Exchange::Reused
    }

    /// What [`Self::stands`] depends on, by number of the slot: its generation, and until when its grant is good; `None`
    /// if that is over.
    pub fn standing(&self) -> impl Iterator<Item = (u32, Option<Timestamp>)> {
        self.slots.iter().map(|slot| match slot.state {
            State::Live { expires, .. } => (slot.generation, Some(expires)),
            State::Dead => (slot.generation, None),
        })
    }

    /// Ends a grant: its tokens are worth nothing from now on. One that is over already stays so.
    pub fn end(&mut self, grant: Grant) {
        let slot = self.slots.get_mut(usize::from(grant.slot));
        if let Some(slot) = slot.filter(|slot| slot.generation == grant.generation) {
            slot.state = State::Dead;
        }
    }

    /// Whether tokens of this grant's place and generation are good at `now`, whatever their counter: an access token is
    /// good until it expires or the grant ends.
    pub fn stands(&self, grant: Grant, now: Timestamp) -> bool {
        let slot = self.slots.get(usize::from(grant.slot));
        slot.is_some_and(|slot| slot.generation == grant.generation && slot.is_live(now))
    }
}

impl Slot {
    fn is_live(&self, now: Timestamp) -> bool {
        matches!(self.state, State::Live { expires, .. } if now < expires)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use moorline_shared::Timestamp;
    use moorline_shared::id::ClientName;
    use proptest::prelude::*;

    use super::{AGAIN_MS, Exchange, Full, Grant, Grants, MAX_GRANTS};

    const HOUR: i64 = 3_600_000;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis).unwrap()
    }

    fn client(name: &str) -> ClientName {
        name.parse().unwrap()
    }

    fn one(grants: &mut Grants) -> Grant {
        grants.begin(Some(client("app")), at(0), at(HOUR)).unwrap()
    }

    fn counted(grant: Grant, counter: u32) -> Grant {
        Grant { counter, ..grant }
    }

    #[test]
    fn a_token_is_exchanged_once_and_an_old_one_kills_the_grant() {
        let mut grants = Grants::default();
        let code = one(&mut grants);
        let app = client("app");
        assert_eq!(
            grants.exchange(code, Some(&app), at(1)),
            Exchange::Done(counted(code, 1))
        );
        let second = counted(code, 1);
        let done = grants.exchange(second, Some(&app), at(2));
        assert_eq!(done, Exchange::Done(counted(code, 2)));
        assert_eq!(grants.exchange(code, Some(&app), at(3)), Exchange::Reused);
        assert_eq!(
            grants.exchange(counted(code, 2), Some(&app), at(4)),
            Exchange::Invalid
        );
        assert!(!grants.stands(code, at(4)));
    }

    #[test]
    fn a_lost_answer_can_be_asked_for_again_for_a_while_by_the_same_client() {
        let ms = i64::try_from(AGAIN_MS).unwrap();
        for (who, when, expected) in [
            ("app", ms, Exchange::Again(counted(Grant::default(), 1))),
            ("app", ms + 1, Exchange::Reused),
            ("other", ms, Exchange::Reused),
        ] {
            let mut grants = Grants::default();
            let code = one(&mut grants);
            grants.exchange(code, Some(&client("app")), at(0));
            let again = grants.exchange(code, Some(&client(who)), at(when));
            assert_eq!(again, expected, "{who} after {when} ms");
        }
    }

    #[test]
    fn another_clients_token_is_stolen_and_kills_the_grant() {
        let mut grants = Grants::default();
        let code = one(&mut grants);
        assert_eq!(
            grants.exchange(code, Some(&client("other")), at(1)),
            Exchange::Reused
        );
        assert_eq!(
            grants.exchange(code, Some(&client("app")), at(1)),
            Exchange::Invalid
        );
    }

    #[test]
    fn a_full_session_refuses_and_what_is_over_makes_room() {
        let mut grants = Grants::default();
        let first = one(&mut grants);
        let rest: Vec<_> = (1..MAX_GRANTS).map(|_| one(&mut grants)).collect();
        assert_eq!(grants.begin(None, at(1), at(HOUR)), Err(Full));
        grants.end(rest[4]);
        let again = grants.begin(None, at(1), at(HOUR)).unwrap();
        assert_eq!((again.slot, again.generation), (rest[4].slot, 1));
        assert!(!grants.stands(rest[4], at(1)) && grants.stands(first, at(1)));
        assert_eq!(
            grants.begin(None, at(HOUR), at(2 * HOUR)).unwrap().slot,
            0,
            "it expired"
        );
    }

    #[derive(Clone, Debug)]
    enum Act {
        Begin,
        /// Shows a token that was made at some time.
        Exchange(prop::sample::Index),
        End(prop::sample::Index),
        Wait(i64),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            2 => Just(Act::Begin),
            6 => any::<prop::sample::Index>().prop_map(Act::Exchange),
            1 => any::<prop::sample::Index>().prop_map(Act::End),
            2 => (0..20_000_i64).prop_map(Act::Wait),
        ];
        prop::collection::vec(act, 1..200)
    }

    proptest! {
        /// Whatever is shown in whatever order, nobody ever gets two different successors of one token.
        #[test]
        fn a_token_has_one_successor(acts in acts()) {
            let (mut grants, mut now) = (Grants::default(), 0);
            let mut tokens: Vec<Grant> = Vec::new();
            let mut successors: HashMap<(u8, u32, u32), Grant> = HashMap::new();
            for act in acts {
                match act {
                    Act::Begin => tokens.extend(grants.begin(None, at(now), at(now + HOUR))),
                    Act::Wait(millis) => now += millis,
                    Act::End(which) if !tokens.is_empty() => grants.end(*which.get(&tokens)),
                    Act::Exchange(which) if !tokens.is_empty() => {
                        let shown = *which.get(&tokens);
                        let stood = grants.stands(shown, at(now));
                        match grants.exchange(shown, None, at(now)) {
                            Exchange::Done(next) | Exchange::Again(next) => {
                                prop_assert!(stood);
                                let key = (shown.slot, shown.generation, shown.counter);
                                prop_assert_eq!(*successors.entry(key).or_insert(next), next);
                                tokens.push(next);
                            }
                            Exchange::Reused => prop_assert!(stood && !grants.stands(shown, at(now))),
                            Exchange::Invalid => prop_assert!(!stood),
                        }
                    }
                    Act::End(_) | Act::Exchange(_) => {}
                }
            }
        }
    }
}
