//! The disk of a host: what its daemon has of its guests' views beyond its own life, written in the order of
//! `host-daemon/src/persistence`, the position last.

use std::collections::BTreeMap;

use moorline_host::cache::Image;
use moorline_host::persistence::{Before, Pending};
use moorline_shared::{InstanceId, Revision};

use crate::clock::Clock;
use crate::host::Host;
use crate::mutant::Mutant;

/// What is on it.
#[derive(Debug, Default)]
pub struct Disk {
    /// The control plane that everything is of.
    pub deployment: Option<String>,
    /// What instances may see of themselves.
    pub views: BTreeMap<InstanceId, Image>,
    /// Up to where these show everything.
    pub position: Option<Position>,
}

/// Where a host stood.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    /// Up to where everything was applied.
    pub cursor: Revision,
    taken_ms: u64,
    age_ms: u64,
}

impl Position {
    /// How long ago that was known to be the present state, in milliseconds.
    pub fn age_ms(&self, clock: Clock) -> u64 {
        clock.ms() - self.taken_ms + self.age_ms
    }
}

/// How far a round of writing comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// To its end.
    Whole,
    /// Some of the views are written, and nothing after them.
    HalfWay,
}

impl Disk {
    /// The daemon writes what is not here yet.
    pub fn write(&mut self, host: &Host, round: Round, clock: Clock, mutant: Mutant) {
        let age_ms = host.age_ms(clock).into();
        let mut pending = host.course.kept.take();
        let Some(deployment) = pending.deployment.clone() else {
            return host.course.kept.give_back(pending);
        };
        if std::mem::take(&mut pending.before) == Before::Remove {
            *self = Self::default();
        }
        self.deployment = Some(deployment);
        let position = pending.cursor.map(|cursor| Position {
            cursor,
            taken_ms: clock.ms(),
            age_ms,
        });
        if mutant == Mutant::HastyPosition {
            self.position = position.or(self.position);
        }
        self.write_views(host, round, &mut pending, clock);
        if round == Round::HalfWay {
            host.course.kept.give_back(pending);
        } else {
            self.position = position.or(self.position);
        }
    }

    fn write_views(&mut self, host: &Host, round: Round, pending: &mut Pending, clock: Clock) {
        let count = match round {
            Round::Whole => pending.views.len(),
            Round::HalfWay => pending.views.len() / 2,
        };
        for _ in 0..count {
            let Some(instance) = pending.views.pop_first() else {
                return;
            };
            match host.floor.take_image(&instance, clock.both()) {
                Some(taken) => drop(self.views.insert(instance, taken.image)),
                None => drop(self.views.remove(&instance)),
            }
        }
    }
}
