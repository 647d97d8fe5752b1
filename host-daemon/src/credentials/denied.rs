//! What is worth nothing any more though it has not expired: the deny list of this host. Pure: `now` and what was
//! revoked in, answers out.
//!
//! It remembers what was revoked until the last token of it has expired by itself, and no more than [`MAX_DENIED`]
//! things at once. One that finds no place is never forgotten in silence: until it is of no use either, the list is not
//! [whole](DenyList::is_whole), and whoever would ask it has to ask the control plane.
//!
//! A guest can have its sessions replaced one after the other, and must not fill the list with them. Nobody asks for more
//! than the few that the instance's last tokens are of, and so each has only its last [`MAX_OF_ONE`] here.

use std::collections::{BTreeMap, BTreeSet};

use moorline_shared::InstanceId;
use moorline_shared::api::feed::{Revocation, Revoked};
use moorline_shared::link::Moment;

use super::table::MAX_GIVEN;

/// The most that is remembered at once, some 10 MiB.
pub(super) const MAX_DENIED: usize = 65_536;
/// The most sessions of one instance that are remembered at once: more than those whose tokens this host knows.
pub(super) const MAX_OF_ONE: usize = 2 * MAX_GIVEN;

/// The deny list.
#[derive(Debug, Default)]
pub(super) struct DenyList {
    /// Until when each is remembered.
    denied: BTreeMap<Revoked, Moment>,
    ends: BTreeSet<(Moment, Revoked)>,
    /// Until when something is missing.
    incomplete: Option<Moment>,
}

impl DenyList {
    /// Remembers what was revoked, as long as the control plane says that it may matter.
    pub(super) fn take(&mut self, revocation: &Revocation, now: Moment) {
        self.expire(now);
        // By the control plane's clock alone: this host's may be off.
        let lasts = revocation.not_before.millis_until(revocation.until);
        let end = Moment(now.0.saturating_add(lasts));
        let known = self.denied.get(&revocation.revoked).copied();
        if known.is_some_and(|known| known >= end) {
            return;
        }
        if let (None, Revoked::Session { instance, .. }) = (known, &revocation.revoked) {
            self.make_room_for(*instance);
        }
        if known.is_none() && self.denied.len() >= MAX_DENIED {
            self.incomplete = self.incomplete.max(Some(end));
            return;
        }
        if let Some(known) = known {
            self.ends.remove(&(known, revocation.revoked.clone()));
        }
        self.denied.insert(revocation.revoked.clone(), end);
        self.ends.insert((end, revocation.revoked.clone()));
    }

    /// Forgets the session of an instance that ends the soonest, if there are as many as may be: it is the oldest.
    fn make_room_for(&mut self, instance: InstanceId) {
        let id = String::new();
        let of_it = self.denied.range(Revoked::Session { instance, id }..);
        let of_it = of_it.take_while(
            |(revoked, _)| matches!(revoked, Revoked::Session { instance: whose, .. } if *whose == instance),
        );
        let all: Vec<_> = of_it.map(|(revoked, end)| (*end, revoked.clone())).collect();
        if all.len() >= MAX_OF_ONE
            && let Some(first) = all.into_iter().min()
        {
            self.denied.remove(&first.1);
            self.ends.remove(&first);
        }
    }

    /// Whether a session of an instance was revoked.
    pub(super) fn denies_session(&self, instance: InstanceId, session: &str, now: Moment) -> bool {
        let id = session.to_owned();
        self.denies(&Revoked::Session { instance, id }, now)
    }

    /// Whether a key was destroyed.
    pub(super) fn denies_key(&self, key: u32, now: Moment) -> bool {
        self.denies(&Revoked::Key { id: key }, now)
    }

    fn denies(&self, revoked: &Revoked, now: Moment) -> bool {
        self.denied.get(revoked).is_some_and(|end| now < *end)
    }

    /// Whether nothing was left out for want of room that still matters.
    pub(super) fn is_whole(&self, now: Moment) -> bool {
        self.incomplete.is_none_or(|until| until <= now)
    }

    fn expire(&mut self, now: Moment) {
        while let Some((end, revoked)) = self.ends.pop_first() {
            if now < end {
                self.ends.insert((end, revoked));
                return;
            }
            self.denied.remove(&revoked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DenyList, MAX_DENIED, MAX_OF_ONE};
    use moorline_shared::api::feed::{Revocation, Revoked};
    use moorline_shared::link::Moment;
    use moorline_shared::{InstanceId, Revision, Timestamp};
    use proptest::prelude::*;

    /// The instance whose session `n` is: each has a few.
    fn whose(n: usize) -> InstanceId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(n / MAX_OF_ONE).to_be_bytes());
        InstanceId::from_bytes(bytes)
    }

    fn session(n: usize) -> Revoked {
        let (instance, id) = (whose(n), format!("s-{n}"));
        Revoked::Session { instance, id }
    }

    fn lasting(revoked: Revoked, ms: i64) -> Revocation {
        let time = |ms| Timestamp::from_millis(ms).unwrap();
        Revocation {
            sequence: Revision::new(1, 1),
            revoked,
            not_before: time(1_000),
            until: time(1_000 + ms),
        }
    }

    proptest! {
        #[test]
        fn what_was_revoked_is_denied_until_its_end_however_often_it_is_said(
            said in prop::collection::vec((0..8usize, 0..1_000i64, 0..200u64), 1..100)
        ) {
            let (mut list, mut now) = (DenyList::default(), Moment(5));
            let mut ends = [Moment(0); 8];
            for (n, lasts, pass) in said {
                let revoked = if n < 4 { session(n) } else { Revoked::Key { id: u32::try_from(n).unwrap() } };
                list.take(&lasting(revoked, lasts), now);
                ends[n] = ends[n].max(Moment(now.0 + lasts.unsigned_abs()));
                now = Moment(now.0 + pass);
                for (n, end) in ends.iter().enumerate() {
                    let denied = if n < 4 {
                        list.denies_session(whose(n), &format!("s-{n}"), now)
                    } else {
                        list.denies_key(u32::try_from(n).unwrap(), now)
                    };
                    prop_assert_eq!(denied, now < *end, "{} at {:?}", n, now);
                }
                prop_assert!(list.is_whole(now) && list.ends.len() == list.denied.len());
            }
        }
    }

    #[test]
    fn a_full_list_forgets_nothing_and_says_that_something_is_missing() {
        let (mut list, now) = (DenyList::default(), Moment(0));
        for n in 0..MAX_DENIED {
            list.take(&lasting(session(n), 100), now);
        }
        assert!(list.is_whole(now));
        list.take(&lasting(session(MAX_DENIED), 500), now);
        assert_eq!(list.denied.len(), MAX_DENIED);
        assert!(
            list.denies_session(whose(0), "s-0", now) && !list.is_whole(now) && !list.is_whole(Moment(499))
        );
        assert!(list.is_whole(Moment(500)));
        // Those that ended make room.
        list.take(&lasting(session(0), 100), Moment(100));
        assert_eq!(list.denied.len(), 1);
    }

    #[test]
    fn one_instance_has_its_last_sessions_here_and_takes_nobodys_room() {
        let (mut list, other) = (DenyList::default(), whose(MAX_OF_ONE));
        let of = |instance, n: usize| Revoked::Session {
            instance,
            id: format!("s-{n}"),
        };
        list.take(&lasting(Revoked::Key { id: 1 }, 1_000_000), Moment(0));
        list.take(&lasting(of(other, 0), 1_000_000), Moment(0));
        let most = 2 * MAX_DENIED;
        for n in 0..most {
            list.take(&lasting(of(whose(0), n), 1_000_000), Moment(n as u64));
        }
        let now = Moment(most as u64);
        let denied = |n: usize| list.denies_session(whose(0), &format!("s-{n}"), now);
        assert!((most - MAX_OF_ONE..most).all(denied) && !(0..most - MAX_OF_ONE).any(denied));
        assert!(list.denies_session(other, "s-0", now) && list.denies_key(1, now) && list.is_whole(now));
        assert_eq!(
            (list.denied.len(), list.ends.len()),
            (MAX_OF_ONE + 2, MAX_OF_ONE + 2)
        );
    }
}
