//! What a guest is told of the host itself: whether what it mirrors is kept in step with the control plane.

use moorline_shared::link::body::{Freshness, Standing};

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

    fn standing(&self, desk: &Desk) -> Standing {
        let own = desk.cache.own(&self.instance).filter(|view| view.is_served());
        let feed = desk.standing();
        let standing = own.map(|view| feed.of_view(view, desk.now));
        Standing {
            revision: own.map(View::revision),
            age_ms: standing.unwrap_or(feed).age_ms,
            freshness: standing.map_or(Freshness::Stale, |standing| standing.freshness),
        }
    }
}
