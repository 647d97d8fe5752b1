//! Compares a guest's mirror with what the host has, from time to time and beside the push. Where both are the same that
//! takes one frame, and a look at the view only if it has changed since the last.

use moorline_shared::PathPrefix;
use moorline_shared::link::StreamId;
use moorline_shared::link::body::{Differs, MirrorDigest};
use moorline_shared::link::session::Told as Queued;

use super::desk::Desk;
use super::log::Line;
use super::push::{Feeder, Shown};
use super::standing::Told;
use super::talk::Talk;

impl Talk {
    /// Says what the guest's mirror is if nothing went wrong, once that is due and nothing is under way to it.
    pub(super) fn compare(&mut self, desk: &Desk) -> Told {
        if !self.is_talking() || !self.comparing.is_due(desk.now) || !self.core.is_settled() {
            return Told::Nothing;
        }
        let Some(digest) = self.in_step_with(desk) else {
            // It is being brought in step, or there is nothing to be in step with: the next tick looks again.
            return Told::Nothing;
        };
        self.comparing.put_off(desk.now);
        match self.core.digest(&digest, desk.now) {
            Queued::Queued => Told::News,
            Queued::NotUnderstood | Queued::TooLong => Told::Nothing,
        }
    }

    /// What the mirror is, if the guest has applied all that the view has.
    fn in_step_with(&self, desk: &Desk) -> Option<MirrorDigest> {
        let mirror = self.feeders.get(&StreamId::SESSION)?;
        let view = desk.cache.view(&mirror.view).filter(|view| view.is_served())?;
        let revision = mirror.at().filter(|at| *at == view.revision())?;
        let digest = match self.shown() {
            _ if mirror.is_behind() => return None,
            Shown::All => view.digest(),
            open @ Shown::Open => view.digest_of(|entry| open.shows(entry)),
        };
        Some(MirrorDigest { revision, digest })
    }

    /// The mirror is something else: it is replaced.
    pub(super) fn differs(&mut self, differs: Differs, desk: &mut Desk) {
        let instance = self.instance;
        if let Some(Line { suppressed }) = desk.line_about(&instance) {
            let stands = differs.revision.map(tracing::field::display);
            tracing::warn!(
                %instance, session = self.token, stands, suppressed,
                "a guest's mirror is not what the host has, and is replaced"
            );
        }
        if let Some(mirror) = self.feeders.get_mut(&StreamId::SESSION) {
            *mirror = Feeder::from_nothing(mirror.view, PathPrefix::ALL);
            self.feed_due = true;
        }
    }
}
