//! How lives begin and end, and how guests come in.

use moorline_shared::InstanceId;

use super::{End, Floor};
use crate::link::admission::{Admission, Gate, LifeId};
use crate::link::grants::{Grants, Notice};
use crate::link::guest::{Guest, Listening};
use crate::link::handle::Ended;
use crate::link::poll::Token;
use crate::link::room::{Full, Place};
use crate::link::talk::{Progress, Talk};

/// The life is not later than the one there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotLater {
    /// The life that has begun.
    pub current: u64,
}

/// Where the connections of a life arrive.
#[derive(Debug, Default)]
pub(in crate::link) struct Way {
    pub(in crate::link) listening: Option<Listening>,
    pub(in crate::link) cid: Option<u32>,
    /// A place on the host, for a guest that has none yet.
    pub(in crate::link) place: Option<Place>,
}

/// Whether a connection is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It is, and challenged.
    Greeted,
    /// It is to be closed: no life of the guest goes on, or it connects too often.
    TurnedAway,
}

impl Floor {
    /// Begins a life of the instance's VM, whose guest's root is told by `admission`, or by its channel. The life before
    /// ends, and its connection with it.
    ///
    /// # Errors
    /// [`NotLater`] if this life or a later one has begun before.
    pub fn begin(&mut self, life: LifeId, admission: Option<Admission>) -> Result<(), NotLater> {
        self.check_later(life)?;
        self.begin_at(life, Way::default(), admission);
        Ok(())
    }

    /// Whether a life is later than the one there is.
    pub(in crate::link) fn check_later(&self, life: LifeId) -> Result<(), NotLater> {
        let guest = self.desk.guests.get(&life.instance);
        let current = guest.map_or(0, |guest| guest.incarnation);
        if current >= life.incarnation {
            return Err(NotLater { current });
        }
        Ok(())
    }

    /// A place for the guest of another life, if it has none.
    ///
    /// # Errors
    /// [`Full`] if the host has as many guests as there is room for.
    pub(in crate::link) fn place(&self, instance: &InstanceId) -> Result<Option<Place>, Full> {
        let guest = self.desk.guests.get(instance);
        if guest.is_some_and(|guest| guest.place.is_some()) {
            return Ok(None);
        }
        self.desk.room.admit().map(Some)
    }

    /// Begins a later life. Returns where the one before was listened to.
    pub(in crate::link) fn begin_at(
        &mut self,
        life: LifeId,
        way: Way,
        admission: Option<Admission>,
    ) -> Option<Listening> {
        let guest = self.desk.guests.entry(life.instance);
        let guest =
            guest.or_insert_with(|| Guest::new(&self.desk.link, self.desk.room.clone(), self.desk.now));
        guest.begin(life.incarnation, way.cid, Gate::new(admission));
        guest.place = way.place.or_else(|| guest.place.take());
        let tokens = guest.tokens();
        let before = std::mem::replace(&mut guest.listening, way.listening);
        for token in tokens {
            self.send_away(token, "another life of this instance has begun", 0);
        }
        self.desk.notify(Notice::Began(life));
        before
    }

    /// Ends the life if it is the present one, and then returns it.
    pub fn end(&mut self, instance: InstanceId, ended: Ended) -> Option<Ended> {
        self.end_at(instance, ended).map(|(ended, _)| ended)
    }

    /// The same, and where it was listened to.
    pub(in crate::link) fn end_at(
        &mut self,
        instance: InstanceId,
        ended: Ended,
    ) -> Option<(Ended, Option<Listening>)> {
        let guest = self.desk.guests.get_mut(&instance)?;
        if guest.incarnation != ended.0 {
            return None;
        }
        guest.alive = false;
        // Its key is of no more use.
        guest.gate = Gate::Closed;
        guest.grants = Grants::default();
        guest.place = None;
        let listening = guest.listening.take();
        for token in guest.tokens() {
            self.send_away(token, "this life of the instance has ended", 0);
        }
        self.forget_if_gone(instance);
        self.desk.notify(Notice::Ended(LifeId {
            instance,
            incarnation: ended.0,
        }));
        Some((ended, listening))
    }

    /// Whether a connection from the instance's channel may come in now. It counts as one that has.
    pub(in crate::link) fn knock(&mut self, instance: &InstanceId) -> Arrival {
        let now = self.desk.now;
        let guest = self.desk.guests.get_mut(instance);
        let Some(guest) = guest.filter(|guest| guest.alive) else {
            return Arrival::TurnedAway;
        };
        if guest.knocks.take(now) {
            return Arrival::Greeted;
        }
        self.desk.counts.crowded.add();
        Arrival::TurnedAway
    }

    /// A connection came from the instance's channel, and is known by `token` from now on. It is challenged with `nonce`,
    /// which nobody can foretell.
    pub fn arrive(&mut self, instance: InstanceId, token: Token, nonce: [u8; 16]) -> Arrival {
        if self.knock(&instance) == Arrival::Greeted {
            self.greet(instance, token, nonce);
            return Arrival::Greeted;
        }
        Arrival::TurnedAway
    }

    /// Challenges a connection that knocked. The oldest one that was not done with that goes for it, if there are too many.
    pub(in crate::link) fn greet(&mut self, instance: InstanceId, token: Token, nonce: [u8; 16]) {
        let Some(guest) = self.desk.guests.get_mut(&instance) else {
            return;
        };
        if let Some(oldest) = guest.greet(token) {
            self.desk.counts.crowded.add();
            self.close(oldest, &End::HungUp);
        }
        self.talks
            .insert(token, Talk::new(token, instance, nonce, &self.desk));
        self.nudge(token);
    }

    /// That the link key of a guest's life is out is recorded: whoever waits for it gets it.
    pub fn hand_over(&mut self, life: LifeId) {
        let LifeId {
            instance,
            incarnation,
        } = life;
        let guest = self.desk.guests.get_mut(&instance);
        let Some(guest) = guest.filter(|guest| guest.incarnation == incarnation) else {
            return;
        };
        if let Some(token) = guest.gate.claimant()
            && !self.talks.get(&token).is_some_and(Talk::is_waiting)
        {
            guest.gate.leave(token);
        }
        let Some((token, key)) = guest.gate.recorded() else {
            return;
        };
        let Some(talk) = self.talks.get_mut(&token) else {
            return;
        };
        if talk.hand_over(key, &mut self.desk) == Progress::Welcomed {
            self.welcomed(token);
            self.nudge(token);
        }
    }

    /// Nothing is kept of a guest whose VM has ended and whose instance is no longer this host's.
    pub(super) fn forget_if_gone(&mut self, instance: InstanceId) {
        let dead = self.desk.guests.get(&instance).is_some_and(|guest| !guest.alive);
        if dead && !self.desk.cache.has(&instance) {
            self.desk.guests.remove(&instance);
        }
    }
}
