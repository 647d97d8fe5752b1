//! How what the host allows this guest is shared among its users, so that none of them keeps root's requests out.
//!
//! | who asks | of the host's bound | while the host is busy |
//! |---|---|---|
//! | the agent, root, and the user who may change data | all of it | asks on |
//! | any other user | half of it | waits |
//! | all other users together | three quarters of it | wait |

use std::collections::BTreeMap;

use moorline_shared::link::session::Bound;
use moorline_shared::link::{Moment, StreamId};

use crate::access::User;

/// The longest that users wait because the host is busy, in milliseconds.
const LONGEST_REST: u32 = 10_000;

/// On whose behalf the host is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    /// The agent's own, root's, or that of the user who may change data.
    Agent,
    /// Any other user's.
    User(User),
}

/// What users have asked, and what more they may.
#[derive(Debug, Default)]
pub(super) struct Shares {
    asked: BTreeMap<StreamId, (User, Bound)>,
    /// Users are not asked for before this moment.
    rest_until: Moment,
}

impl Shares {
    /// Forgets what the host has ended.
    pub(super) fn forget_all_but(&mut self, is_in_use: impl Fn(StreamId) -> bool) {
        self.asked.retain(|stream, _| is_in_use(*stream));
    }

    /// Whether one more may be asked of what the host bounds by `most`.
    pub(super) fn has_room(&self, asking: Asking, bound: Bound, most: u16) -> bool {
        let Asking::User(user) = asking else {
            return true;
        };
        let of_bound = || self.asked.values().filter(|(_, other)| *other == bound);
        let (own, all) = (
            of_bound().filter(|(other, _)| *other == user).count(),
            of_bound().count(),
        );
        let most = usize::from(most);
        own < most.div_ceil(2) && all < most - most / 4
    }

    /// Something was asked on this stream.
    pub(super) fn asked(&mut self, stream: StreamId, asking: Asking, bound: Bound) {
        match asking {
            // The number may have been a user's before.
            Asking::Agent => self.asked.remove(&stream),
            Asking::User(user) => self.asked.insert(stream, (user, bound)),
        };
    }

    /// The host is too busy, and says for how long.
    pub(super) fn busy(&mut self, retry_after_ms: u32, now: Moment) {
        let rest = u64::from(retry_after_ms.min(LONGEST_REST));
        self.rest_until = self.rest_until.max(Moment(now.0 + rest));
    }

    /// For how many milliseconds nothing is asked for whoever asks, because the host is busy.
    pub(super) fn rest(&self, asking: Asking, now: Moment) -> Option<u32> {
        let rest = u32::try_from(self.rest_until.since(now)).unwrap_or(LONGEST_REST);
        (asking != Asking::Agent && rest > 0).then_some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u16 = 16;

    fn user(id: u32) -> Asking {
        Asking::User(User::Known(id))
    }

    /// How many streams one after the other get, as long as they are let.
    fn taken(shares: &mut Shares, asking: Asking, from: u32) -> usize {
        let fits = |stream: &u32| {
            let has_room = shares.has_room(asking, Bound::Streams, MOST);
            if has_room {
                shares.asked(StreamId(*stream), asking, Bound::Streams);
            }
            has_room
        };
        (from..from + 100).take_while(fits).count()
    }

    #[test]
    fn no_user_has_it_all_and_some_is_kept_for_the_agent() {
        let mut shares = Shares::default();
        assert_eq!(taken(&mut shares, user(1000), 0), 8);
        assert_eq!(taken(&mut shares, Asking::User(User::Nobody), 1_000), 4);
        assert_eq!(taken(&mut shares, user(1001), 2_000), 0);
        assert!(shares.has_room(Asking::Agent, Bound::Streams, MOST));
        assert!(
            shares.has_room(user(1000), Bound::Requests, MOST),
            "each bound has its own shares"
        );
        shares.forget_all_but(|stream| stream.0 != 0);
        assert_eq!(taken(&mut shares, user(1001), 2_000), 1);
    }

    #[test]
    fn a_number_that_is_used_again_is_its_new_users() {
        let mut shares = Shares::default();
        assert_eq!(taken(&mut shares, user(1000), 0), 8);
        shares.asked(StreamId(0), Asking::Agent, Bound::Streams);
        assert_eq!(taken(&mut shares, user(1000), 100), 1);
    }

    #[test]
    fn users_rest_while_the_host_is_busy_and_the_agent_does_not() {
        let mut shares = Shares::default();
        let at = |ms| Moment(1 + ms);
        shares.busy(1_000, at(0));
        assert_eq!(shares.rest(user(1000), at(400)), Some(600));
        assert_eq!(shares.rest(Asking::Agent, at(400)), None);
        assert_eq!(shares.rest(user(1000), at(1_000)), None);
        shares.busy(u32::MAX, at(0));
        assert_eq!(shares.rest(user(1000), at(u64::from(LONGEST_REST))), None);
    }
}
