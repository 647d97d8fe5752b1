//! What a guest is told of the host itself: whether what it mirrors is kept in step with the control plane.

use moorline_shared::Revision;
use moorline_shared::link::body::{self, Code, Freshness};
use moorline_shared::link::{Moment, StreamId};

use super::ask::Refusal;
use super::clock::Standing;
use super::desk::Desk;
use super::talk::Talk;
use crate::cache::View;

/// The part of a STANDING whose change is told. That the copy moves on, the batches tell, and its age, time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gist {
    freshness: Freshness,
    served: bool,
    /// When a host that polls last knew that what the mirror has is the present state.
    polled: Option<Moment>,
}

/// Whether there was something to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    News,
}

impl Gist {
    /// Whether who was told this need not be told `new`. That the mirror is younger is told now and then only: many polls
    /// may bring something in a short time.
    fn says(&self, new: &Self, pause_ms: u32) -> bool {
        let younger = match (self.polled, new.polled) {
            (Some(told), Some(polled)) => polled.since(told) >= u64::from(pause_ms / 2),
            (None, Some(_)) => true,
            (_, None) => false,
        };
        !younger && (self.freshness, self.served) == (new.freshness, new.served)
    }
}

impl Talk {
    /// Tells a guest that is welcome how far its mirror can be trusted, if that is not what it was told last.
    pub(super) fn tell_standing(&mut self, desk: &Desk) -> Told {
        if !self.is_talking() {
            return Told::Nothing;
        }
        let standing = self.standing(desk);
        let gist = Gist {
            freshness: standing.freshness,
            served: standing.revision.is_some(),
            polled: desk.polled().filter(|_| self.mirror_stands_at(standing.revision)),
        };
        if self
            .told
            .is_some_and(|told| told.says(&gist, desk.standing().pause_ms))
        {
            return Told::Nothing;
        }
        self.told = Some(gist);
        self.core.standing(&standing, desk.now);
        Told::News
    }

    fn standing(&self, desk: &Desk) -> body::Standing {
        let Ok((view, standing)) = self.own_view(desk) else {
            return body::Standing {
                revision: None,
                age_ms: desk.standing().age_ms,
                freshness: Freshness::Stale,
            };
        };
        body::Standing {
            revision: Some(view.revision()),
            age_ms: standing.age_ms,
            // Fresh would say that each frame makes the mirror younger, which for a host that polls none does.
            freshness: if standing.pause_ms > 0 {
                Freshness::Stale
            } else {
                standing.freshness
            },
        }
    }

    /// Whether the mirror has all that the host's copy has at `revision`.
    fn mirror_stands_at(&self, revision: Option<Revision>) -> bool {
        let mirror = self.feeders.get(&StreamId::SESSION);
        mirror.is_some_and(|mirror| revision.is_some() && mirror.at() == revision && !mirror.is_behind())
    }

    /// What the guest may see of itself and how far that can be trusted, or why it is not served now.
    pub(super) fn own_view<'d>(&self, desk: &'d Desk) -> Result<(&'d View, Standing), Refusal> {
        let own = desk.cache.own(&self.instance).filter(|view| view.is_served());
        let view = own.ok_or_else(no_view)?;
        let standing = desk.bounds.own(desk.standing().of_view(view, desk.now))?;
        if standing.freshness == Freshness::Stale && self.lags(view) {
            return Err(lagging());
        }
        Ok((view, standing))
    }

    /// Whether the view is of a time before what the guest was shown: what somebody sees never goes back.
    pub(super) fn lags(&self, view: &View) -> bool {
        self.shown_up_to.is_some_and(|shown| view.known() < shown)
    }

    /// The guest was shown the state at this revision, or a part of it.
    pub(super) fn was_shown(&mut self, revision: Revision) {
        self.shown_up_to = self.shown_up_to.max(Some(revision));
    }
}

fn no_view() -> Refusal {
    Refusal::new(
        Code::Unavailable,
        "the host doesn't have this instance's data: they have not come yet, or are over the host's quota",
    )
}

/// The daemon that had shown it more ended before that was on disk.
fn lagging() -> Refusal {
    Refusal::new(
        Code::Unavailable,
        "the guest has seen later data than the host has after its restart: try again when the host is connected",
    )
}
