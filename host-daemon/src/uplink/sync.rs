//! Compares what the host has with what the control plane has for it, from time to time and beside the feed. Pure: what
//! the shards have and what the control plane says go in, and what has to be asked for anew comes out.

use std::collections::{BTreeMap, BTreeSet};

use moorline_shared::api::feed::ViewId;
use moorline_shared::api::sync::{HostSync, SyncHost, ViewState, together};
use moorline_shared::link::Moment;
use moorline_shared::{Digest, InstanceId, Revision};

use crate::cache::Held;
use crate::comparing::Comparing;

/// When the host is compared next, and what it is being compared in.
#[derive(Debug)]
pub(super) struct Syncing {
    next: Comparing,
    /// What the control plane is being asked about.
    asked: Option<Asked>,
}

/// What the control plane was asked about.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) revision: Revision,
    /// What each view of the host came to.
    views: BTreeMap<ViewId, Digest>,
    without: BTreeSet<InstanceId>,
}

/// What follows from an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The host has what it should, as far as anybody can tell.
    Nothing,
    /// These views are not what they should be.
    Views(BTreeSet<ViewId>),
    /// The host has instances that aren't its own, or lacks some that are.
    Instances,
}

impl Syncing {
    /// Every `seconds` or so from `now` on; never if that is 0. Hosts that came together have other `seed`s, and so aren't
    /// compared together.
    pub(super) fn every(seconds: u32, seed: u64, now: Moment) -> Self {
        Self {
            next: Comparing::every(seconds, seed, now),
            asked: None,
        }
    }

    /// Whether the control plane is to be asked at `now`.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        self.asked.is_none() && self.next.is_due(now)
    }

    /// What is said of what the shards have up to `revision`; `None` if some of it is of a later time, and then the next
    /// bookmark is waited for.
    pub(super) fn ask(&mut self, held: &[Held], revision: Revision) -> Option<SyncHost> {
        if held.iter().any(|view| view.known > revision) {
            return None;
        }
        let in_step = held.iter().filter_map(|held| Some((held.view, held.digest?)));
        let behind = held.iter().filter(|held| held.digest.is_none());
        let asked = Asked {
            revision,
            views: in_step.collect(),
            without: behind
                .filter(|held| held.is_own())
                .map(|held| held.view.instance)
                .collect(),
        };
        let said = asked.said();
        self.asked = Some(asked);
        Some(said)
    }

    /// The control plane was asked and has answered at `now`, or could not be asked. Nothing was being asked if there is
    /// nothing to answer.
    pub(super) fn answered(&mut self, now: Moment) -> Option<Asked> {
        self.next.put_off(now);
        self.asked.take()
    }

    /// What was asked will not be answered: it is asked again at the next bookmark.
    pub(super) fn forget(&mut self) {
        self.asked = None;
    }
}

impl Asked {
    fn said(&self) -> SyncHost {
        let state = |(view, digest): (&ViewId, &Digest)| ViewState {
            view: *view,
            digest: *digest,
        };
        let views: Vec<_> = self.views.iter().map(state).collect();
        let foreign = self.views.keys().filter(|view| view.reader != view.instance);
        SyncHost {
            revision: self.revision,
            digest: together(&views),
            foreign: foreign.copied().collect(),
            without: self.without.iter().copied().collect(),
        }
    }

    /// What follows from the answer.
    pub(super) fn judge(&self, answer: &HostSync) -> Found {
        let HostSync::Differs { views } = answer else {
            return Found::Nothing;
        };
        let right: BTreeMap<_, _> = views.iter().map(|state| (state.view, state.digest)).collect();
        let own = |views: &BTreeMap<ViewId, Digest>| -> BTreeSet<_> {
            let own = views.keys().filter(|view| view.reader == view.instance);
            own.copied().collect()
        };
        if own(&right) != own(&self.views) {
            return Found::Instances;
        }
        let differs = |(view, digest): &(&ViewId, &Digest)| right.get(*view) != Some(*digest);
        let differing = self.views.iter().filter(differs).map(|(view, _)| *view);
        Found::Views(differing.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::tests::{id, revision};

    /// When everything is due that ever will be.
    const LATE: Moment = Moment(u64::MAX / 2);

    fn foreign(reader: u8, instance: u8) -> ViewId {
        ViewId {
            reader: id(reader),
            instance: id(instance),
        }
    }

    fn held(view: ViewId, value: Option<&str>) -> Held {
        Held {
            view,
            known: revision(5),
            digest: value.map(|value| Digest::of(value.as_bytes())),
        }
    }

    fn state(view: ViewId, value: &str) -> ViewState {
        ViewState {
            view,
            digest: Digest::of(value.as_bytes()),
        }
    }

    fn asked() -> (Syncing, SyncHost) {
        let mut syncing = Syncing::every(300, 1, Moment(0));
        let all = [
            held(ViewId::own(id(1)), Some("a")),
            held(ViewId::own(id(2)), None),
            held(foreign(1, 9), Some("b")),
            held(foreign(2, 9), None),
        ];
        let said = syncing.ask(&all, revision(5)).unwrap();
        (syncing, said)
    }

    fn judged(views: &[ViewState]) -> Found {
        let (mut syncing, _) = asked();
        let views = views.to_vec();
        syncing
            .answered(Moment(0))
            .unwrap()
            .judge(&HostSync::Differs { views })
    }

    #[test]
    fn what_is_not_in_step_is_left_out() {
        let (syncing, said) = asked();
        assert!(!syncing.is_due(LATE), "one answer is waited for");
        let right = [state(ViewId::own(id(1)), "a"), state(foreign(1, 9), "b")];
        assert_eq!(said.digest, together(&right));
        assert_eq!((said.foreign, said.without), (vec![foreign(1, 9)], vec![id(2)]));
    }

    #[test]
    fn what_is_of_a_later_time_is_waited_for() {
        let mut syncing = Syncing::every(1, 1, Moment(0));
        let later = [held(ViewId::own(id(1)), Some("a"))];
        assert_eq!(syncing.ask(&later, revision(4)), None);
        assert!(syncing.answered(LATE).is_none());
    }

    #[test]
    fn views_that_differ_are_named_and_others_are_not() {
        let (own, other) = (ViewId::own(id(1)), foreign(1, 9));
        let right = |a, b| [state(own, a), state(other, b)];
        assert_eq!(judged(&right("a", "b")), Found::Views([].into()));
        assert_eq!(judged(&right("x", "b")), Found::Views([own].into()));
        assert_eq!(judged(&right("a", "x")), Found::Views([other].into()));
        assert_eq!(judged(&[state(own, "a")]), Found::Views([other].into()));
    }

    #[test]
    fn other_instances_are_found() {
        assert_eq!(judged(&[state(foreign(1, 9), "b")]), Found::Instances);
        let more = [state(ViewId::own(id(1)), "a"), state(ViewId::own(id(3)), "c")];
        assert_eq!(judged(&more), Found::Instances);
    }

    #[test]
    fn a_host_is_compared_again_and_again_or_never() {
        assert!(!Syncing::every(0, 1, Moment(0)).is_due(LATE));
        let (mut syncing, _) = asked();
        for answer in [HostSync::InStep, HostSync::Later] {
            assert_eq!(asked().0.answered(LATE).unwrap().judge(&answer), Found::Nothing);
        }
        syncing.answered(Moment(5_000));
        let (pause, longest) = (5_000 + 225_000, 5_000 + 375_000);
        assert!(!syncing.is_due(Moment(pause - 1)) && syncing.is_due(Moment(longest)));
        // The session ended without an answer: it is asked again in the next.
        let held = [held(ViewId::own(id(1)), Some("a"))];
        syncing.ask(&held, revision(5)).unwrap();
        assert!(!syncing.is_due(Moment(longest)));
        syncing.forget();
        assert!(syncing.is_due(Moment(longest)));
    }
}
