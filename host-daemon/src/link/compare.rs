//! Compares a guest's mirror with what the host has, from time to time and beside the push. Where both are the same that
//! takes one frame, and a look at the view only if it has changed since the last.

use moorline_shared::PathPrefix;
use moorline_shared::link::body::{Differs, MirrorDigest};
use moorline_shared::link::session::Told as Queued;
use moorline_shared::link::{Moment, StreamId};

use super::desk::Desk;
use super::log::Line;
use super::push::{Feeder, Shown};
use super::standing::Told;
use super::talk::Talk;

/// When a guest's mirror is compared next. The pauses are three to five quarters of what is configured, and other ones for
/// each connection, so that guests that came together aren't compared together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Comparing {
    pause_ms: u64,
    seed: u64,
    due: Moment,
}

impl Comparing {
    /// Every `seconds` or so from `now` on; never if that is 0. Whoever has another `seed` has other pauses.
    pub(super) fn every(seconds: u32, seed: u64, now: Moment) -> Self {
        let mut comparing = Self {
            pause_ms: u64::from(seconds) * 1_000,
            seed,
            due: now,
        };
        comparing.put_off(now);
        comparing
    }

    fn is_due(&self, now: Moment) -> bool {
        self.pause_ms > 0 && self.due <= now
    }

    /// It was done at `now`.
    fn put_off(&mut self, now: Moment) {
        // A step of splitmix64's: numbers that follow each other give pauses that don't.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let spread = (mixed >> 32) % (self.pause_ms / 2 + 1);
        self.due = Moment(now.0 + self.pause_ms * 3 / 4 + spread);
    }
}

impl Talk {
    /// Says what the guest's mirror is if nothing went wrong, once that is due and nothing is under way to it.
    pub(super) fn compare(&mut self, desk: &Desk) -> Told {
        if !self.is_talking() || !self.comparing.is_due(desk.now) || !self.core.can_push(StreamId::SESSION) {
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

#[cfg(test)]
mod tests {
    use super::{Comparing, Moment};

    #[test]
    fn pauses_are_spread_around_what_is_configured() {
        let mut pauses = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let mut comparing = Comparing::every(300, seed, Moment(0));
            for _ in 0..3 {
                let begun = comparing.due;
                assert!(comparing.is_due(begun) && !comparing.is_due(Moment(begun.0 - 1)));
                comparing.put_off(begun);
                let pause = comparing.due.since(begun);
                assert!((225_000..=375_000).contains(&pause), "{pause}");
                pauses.insert(pause / 10_000);
            }
        }
        assert!(pauses.len() >= 14, "{pauses:?}");
    }

    #[test]
    fn none_is_none() {
        assert!(!Comparing::every(0, 7, Moment(5)).is_due(Moment(u64::MAX)));
    }
}
