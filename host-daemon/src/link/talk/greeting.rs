//! How a session begins: HELLO is judged, and answered by `HELLO_ACK` or by GOAWAY.

use std::sync::Arc;

use moorline_shared::link::body::{Freshness, Hello, HelloAck, LinkKey};
use moorline_shared::link::session::{Fault, HEARTBEAT_MS};
use moorline_shared::link::{Kind, KindSet, StreamId};
use moorline_shared::secret::SecretKey;

use super::{End, Progress, Stage, Talk, printable};
use crate::link::admission::{Denial, LifeId, Verdict};
use crate::link::desk::Desk;
use crate::link::follow::mirror;
use crate::link::grants::{Notice, Speaker};
use crate::link::log::Line;

impl Talk {
    pub(super) fn hello(&mut self, hello: Hello, desk: &mut Desk) -> Result<Progress, End> {
        if !matches!(self.stage, Stage::Greeting) {
            let (kind, stream) = (Kind::Hello, StreamId::SESSION);
            return Err(End::Fault(Fault::Unexpected { kind, stream }));
        }
        let Some(deployment) = desk.deployment.clone() else {
            self.send_away("the host has not heard of the control plane yet", 1_000, desk.now);
            return Ok(Progress::Nothing);
        };
        // Asked before it is judged: who is given the link key is given it once.
        if !self.may_begin(desk) {
            desk.counts.crowded.add();
            let pause = desk.link.connect_interval_ms;
            self.send_away("the guest connects too often", pause, desk.now);
            return Ok(Progress::Nothing);
        }
        match self.judge(&hello, desk) {
            Verdict::Welcome => return Ok(self.welcome(&hello, &deployment, desk)),
            Verdict::Give(key) => {
                self.welcome(&hello, &deployment, desk);
                self.give(key, desk);
                return Ok(Progress::Welcomed);
            }
            Verdict::Wait => self.stage = Stage::Waiting(Box::new(hello)),
            Verdict::Deny(denial) => self.deny(denial, desk),
            Verdict::Busy => {
                self.send_away("the host can't record who has the link key now", 1_000, desk.now);
            }
        }
        Ok(Progress::Nothing)
    }

    /// Whether the guest may begin to speak once more by now.
    fn may_begin(&self, desk: &mut Desk) -> bool {
        let guest = desk.guests.get_mut(&self.instance);
        guest.is_none_or(|guest| guest.connects.has(desk.now))
    }

    /// A guest that is no more here is nobody's.
    fn judge(&self, hello: &Hello, desk: &mut Desk) -> Verdict {
        let life = self.life(desk);
        let Some(guest) = desk.guests.get_mut(&self.instance) else {
            return Verdict::Deny(Denial::Over);
        };
        let verdict = guest.gate.judge(&self.core, hello, life, self.token);
        if matches!(verdict, Verdict::Welcome | Verdict::Give(_) | Verdict::Wait) {
            guest.connects.take(desk.now);
        }
        verdict
    }

    /// Whether it said HELLO and waits for its link key.
    pub(in crate::link) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting(_))
    }

    /// The link key that it waits for may be given to it now.
    pub(in crate::link) fn hand_over(&mut self, key: SecretKey, desk: &mut Desk) -> Progress {
        let Stage::Waiting(hello) = std::mem::replace(&mut self.stage, Stage::Greeting) else {
            return Progress::Nothing;
        };
        let Some(deployment) = desk.deployment.clone() else {
            return Progress::Nothing;
        };
        self.welcome(&hello, &deployment, desk);
        self.give(key, desk);
        Progress::Welcomed
    }

    fn give(&mut self, key: SecretKey, desk: &Desk) {
        let incarnation = self.life(desk).incarnation;
        let key = LinkKey { incarnation, key };
        // That it understands the kind was seen in its HELLO, and it always fits.
        let _ = self.core.link_key(&key, desk.now);
    }

    /// The life that the guest is in.
    fn life(&self, desk: &Desk) -> LifeId {
        let guest = desk.guests.get(&self.instance);
        LifeId {
            instance: self.instance,
            incarnation: guest.map_or(0, |guest| guest.incarnation),
        }
    }

    fn welcome(&mut self, hello: &Hello, deployment: &Arc<str>, desk: &mut Desk) -> Progress {
        let life = self.life(desk);
        let ack = self.acknowledgement(life, deployment, desk);
        self.core.welcome(hello, &ack, desk.now);
        self.have_ask(desk);
        self.stage = Stage::Talking {
            build: printable(&hello.build),
        };
        // A guest can claim anything here. Where the host is in step, what it has is the truth, and otherwise a guest that
        // lies is shown nothing.
        if desk.standing().freshness == Freshness::Stale
            && hello.incarnation == Some(life.incarnation)
            && let Some(applied) = hello.applied
        {
            self.was_shown(applied);
        }
        let mirror = mirror(life.instance, life.incarnation, hello, desk);
        self.feeders.insert(StreamId::SESSION, mirror);
        self.feed_due = true;
        if let Some(guest) = desk.guests.get(&self.instance) {
            guest.grants.tell_all(&mut self.core, desk.now);
        }
        self.tell_standing(desk);
        if let Some(guest) = desk.guests.get_mut(&self.instance) {
            guest.grants.tell_withdrawn(&mut self.core, desk.now);
        }
        desk.notify(Notice::Greeted {
            life,
            generation: hello.vmgenid,
            speaker: if hello.incarnation == Some(life.incarnation) {
                Speaker::Known
            } else {
                Speaker::New
            },
        });
        Progress::Welcomed
    }

    fn acknowledgement(&self, life: LifeId, deployment: &Arc<str>, desk: &Desk) -> HelloAck {
        HelloAck {
            kinds: KindSet::ours(),
            session: self.token,
            instance: life.instance,
            incarnation: life.incarnation,
            authority: deployment.to_string(),
            limits: desk.link.limits(),
            boottime_ms: desk.now.0,
            heartbeat_ms: HEARTBEAT_MS,
        }
    }

    /// Sends somebody away who can't show that the guest's root speaks. It counts as a fault of the guest's.
    fn deny(&mut self, denial: Denial, desk: &mut Desk) {
        self.requests.faults += 1;
        desk.counts.faults.add();
        desk.counts.strangers.add();
        let (now, instance) = (desk.now, self.instance);
        if let Some(Line { suppressed }) = desk.line_about(&instance) {
            tracing::warn!(%instance, session = self.token, suppressed, %denial, "a HELLO is not believed");
        }
        self.core.deny(now);
        self.send_away(&denial.to_string(), 0, now);
    }
}
