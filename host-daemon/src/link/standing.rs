//! What a guest is told of the host itself: whether what it mirrors is kept in step with the control plane.

use moorline_shared::Revision;
use moorline_shared::link::body::{self, Code, Freshness};

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
}

/// Whether there was something to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    News,
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
        };
        if self.told.replace(gist) == Some(gist) {
            return Told::Nothing;
        }
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
            freshness: standing.freshness,
        }
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
