//! What a guest is told of the host itself: whether what it mirrors is kept in step with the control plane.

use moorline_shared::Revision;
use moorline_shared::link::body::{self, AsOf, Code, Freshness};
use moorline_shared::link::{Kind, Moment, StreamId};

use super::ask::Refusal;
use super::clock::Standing;
use super::desk::Desk;
use super::talk::Talk;
use crate::cache::View;

/// The part of a STANDING or `AS_OF` whose change is told. That the copy moves on, the batches tell, and its age, time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gist {
    wording: Wording,
    freshness: Freshness,
    served: bool,
    /// When a host that polls last knew that what the mirror has is the present state.
    polled: Option<Moment>,
}

/// The frame by which it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wording {
    Standing,
    /// Of a host that polls, to a guest that understands it.
    AsOf,
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
        let said = |gist: &Self| (gist.wording, gist.freshness, gist.served);
        !younger && said(self) == said(new)
    }
}

impl Talk {
    /// Tells a guest that is welcome how far its mirror can be trusted, if that is not what it was told last. One that asks
    /// is told that with each answer.
    pub(super) fn tell_standing(&mut self, desk: &Desk) -> Told {
        if !self.is_talking() || self.asking.is_some() {
            return Told::Nothing;
        }
        let gist = self.gist(desk);
        let pause = desk.standing().pause_ms;
        if self.told.is_some_and(|told| told.says(&gist, pause)) {
            return Told::Nothing;
        }
        self.told = Some(gist);
        match gist.wording {
            Wording::Standing => self.core.standing(&self.standing(desk), desk.now),
            Wording::AsOf => {
                // Understood, as was seen.
                let _ = self.core.as_of(&self.as_of(desk), desk.now);
            }
        }
        Told::News
    }

    pub(super) fn gist(&self, desk: &Desk) -> Gist {
        let (standing, polled) = (self.standing(desk), desk.polled());
        let wording = if polled.is_some() && self.core.understands(Kind::AsOf) {
            Wording::AsOf
        } else {
            Wording::Standing
        };
        let served = standing.revision.is_some();
        let counts = served && (wording == Wording::AsOf || self.mirror_stands_at(standing.revision));
        Gist {
            wording,
            freshness: standing.freshness,
            served,
            polled: polled.filter(|_| counts),
        }
    }

    /// Whether how far the mirror can be trusted is another matter than the guest was told last.
    pub(super) fn stands_otherwise(&self, desk: &Desk) -> bool {
        let said = |gist: Gist| (gist.freshness, gist.served);
        self.told.map(said) != Some(said(self.gist(desk)))
    }

    /// Of when the guest's mirror is, once it stands where the copy does.
    pub(super) fn as_of(&self, desk: &Desk) -> AsOf {
        let Ok((view, standing)) = self.own_view(desk) else {
            return AsOf {
                revision: None,
                age_ms: desk.standing().age_ms,
                fresh_for_ms: 0,
            };
        };
        let pause = self.asking.map_or(0, |asking| asking.pause_ms());
        let fresh_for_ms = match desk.bounds.fresh_for(standing) {
            0 => 0,
            left => left.saturating_add(pause),
        };
        AsOf {
            revision: Some(view.revision()),
            age_ms: standing.age_ms,
            fresh_for_ms,
        }
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
