//! What each event does to the world: to what is under way and to the time here, and otherwise in [`crate::doings`] and
//! [`crate::fates`].

use crate::agent::Over;
use crate::event::{CutAt, Event};
use crate::network::{Errand, Leg, Stage};
use crate::world::{Move, Moved, World};
use crate::{HOSTS, SLOTS};

impl World {
    /// Something happens.
    pub fn happen(&mut self, event: &Event) {
        self.count(name(event));
        match event {
            Event::Put { .. }
            | Event::Pair(_)
            | Event::Delete(..)
            | Event::Share { .. }
            | Event::Tag(..)
            | Event::Group(..)
            | Event::Terminate(_) => self.user(event),
            Event::Write { .. }
            | Event::Get(..)
            | Event::List(..)
            | Event::Watch(..)
            | Event::Unwatch(..) => self.program(event),
            Event::KillPlane
            | Event::StartPlane
            | Event::RestorePlane(_)
            | Event::Save(..)
            | Event::KillHost(_)
            | Event::StartHost(_)
            | Event::KillAgent(_)
            | Event::StartAgent(_) => self.process(event),
            Event::Pause(_)
            | Event::Resume(_)
            | Event::Snapshot(_)
            | Event::Restore(_)
            | Event::NewLife(_)
            | Event::Replace(..) => self.machine(event),
            _ => self.travel(event),
        }
        self.after_host_work();
    }

    fn travel(&mut self, event: &Event) {
        match *event {
            Event::Move(which, bytes) => {
                let moves = self.moves();
                let next = moves[which % moves.len()];
                if matches!(next, Move::Errand(place) if place > 0) {
                    self.count("a call overtakes another");
                }
                self.move_on(next, bytes);
            }
            Event::Flow(rounds) => self.flow(rounds),
            Event::Advance(ms) => self.advance(ms, Flowing::Yes),
            Event::Stall(ms) => self.advance(ms, Flowing::No),
            Event::Drop(which) if !self.net.errands.is_empty() => {
                let place = which % self.net.errands.len();
                let Errand { host, boot, stage } = self.net.errands.remove(place);
                self.count(match stage {
                    Leg::Answering(..) => "an answer is lost",
                    _ => "a call is lost",
                });
                self.come_back(host, boot, stage);
            }
            Event::Echo(which) if !self.net.errands.is_empty() => {
                let errand = &self.net.errands[which % self.net.errands.len()];
                if let Leg::Asking(call) = &errand.stage {
                    let (host, boot, stage) = (errand.host, errand.boot, Leg::Echo(call.clone()));
                    self.net.errands.push(Errand { host, boot, stage });
                }
            }
            Event::Cut(which, at) if !self.net.wires.is_empty() => {
                let wire = which % self.net.wires.len();
                self.cut(wire, at);
            }
            Event::CutFeed(host) if self.net.feeds[host].is_some() => self.lose_feed(host),
            Event::Part(host) => {
                self.net.cut_off[host] = true;
                if let Some(feed) = &mut self.net.feeds[host] {
                    feed.swallows = true;
                }
            }
            Event::Join(host) => self.net.cut_off[host] = false,
            _ => {}
        }
    }

    fn cut(&mut self, wire: usize, at: CutAt) {
        // What the ends have said is on its way by now.
        self.moves();
        if matches!(at, CutAt::Both | CutAt::Guest) && self.net.wires[wire].guest_end == Stage::Open {
            self.hang_up(wire, Over::Fault);
        }
        if matches!(at, CutAt::Both | CutAt::Host) {
            self.cut_host_end(wire);
        }
        if at == CutAt::Neither {
            self.net.wires[wire].swallows = true;
        }
    }

    /// Everything that can move does, so many times, or until nothing moves any more.
    pub fn flow(&mut self, rounds: usize) {
        for _ in 0..rounds {
            let possible = self.moves();
            let errands = self.net.errands.len();
            let mut goes_on = errands > 0;
            for next in possible
                .into_iter()
                .filter(|next| !matches!(next, Move::Errand(_)))
            {
                goes_on |= self.move_on(next, usize::MAX) == Moved::Yes;
            }
            for _ in 0..errands {
                self.move_on(Move::Errand(0), 0);
            }
            if !goes_on {
                return;
            }
        }
    }

    /// Time passes.
    pub fn advance(&mut self, ms: u64, flowing: Flowing) {
        let mut left = ms;
        while left > 0 {
            let slice = left.min(500);
            left -= slice;
            self.clock.advance(slice);
            self.tick();
            if flowing == Flowing::Yes {
                self.flow(3);
            }
        }
        if flowing == Flowing::No && ms > 2_000 {
            self.net.swallow_late();
        }
    }

    fn tick(&mut self) {
        self.plane.tell(self.clock);
        let (clock, mutant) = (self.clock, self.mutant);
        for host in 0..HOSTS {
            let Some(daemon) = &mut self.hosts[host] else {
                continue;
            };
            daemon.turn(clock);
            daemon.tick(clock, mutant);
            if daemon.course.is_silent(clock) {
                self.count("a feed falls silent");
                self.lose_feed(host);
            }
            self.open_feed(host);
        }
        for slot in 0..SLOTS {
            self.tick_guest(slot);
            self.dial(slot);
        }
        self.after_host_work();
    }

    fn tick_guest(&mut self, slot: usize) {
        let now = self.guest_now(slot);
        let guest = &mut self.guests[slot];
        let Some(agent) = guest.agent.as_mut().filter(|_| !guest.paused) else {
            return;
        };
        let Some(token) = agent.link.as_ref().map(|link| link.token) else {
            let _ = agent.tick(now);
            return;
        };
        let mut wires = self.net.wires.iter();
        let wire = wires.position(|wire| wire.token == token && wire.guest_end == Stage::Open);
        match (agent.tick(now), wire) {
            (Err(over), Some(wire)) => self.hang_up(wire, over),
            // It stood still when its end was closed, and sees that now.
            (Err(_) | Ok(()), None) => agent.hung_up(Over::Fault, now),
            (Ok(()), Some(_)) => {}
        }
    }
}

/// Whether things move while time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flowing {
    /// They do.
    Yes,
    /// They don't.
    No,
}

/// What an event is counted as.
const fn name(event: &Event) -> &'static str {
    match event {
        Event::Put { .. } => "event put",
        Event::Pair(_) => "event pair",
        Event::Delete(..) => "event delete",
        Event::Share { .. } => "event share",
        Event::Tag(..) => "event tag",
        Event::Group(..) => "event group",
        Event::Write { .. } => "event write",
        Event::Get(..) => "event get",
        Event::List(..) => "event list",
        Event::Watch(..) => "event watch",
        Event::Unwatch(..) => "event unwatch",
        Event::Move(..) => "event move",
        Event::Flow(_) => "event flow",
        Event::Drop(_) => "event drop",
        Event::Echo(_) => "event echo",
        Event::Cut(..) => "event cut",
        Event::CutFeed(_) => "event cut feed",
        Event::Part(_) => "event part",
        Event::Join(_) => "event join",
        Event::Advance(_) => "event advance",
        Event::Stall(_) => "event stall",
        Event::KillPlane => "event kill plane",
        Event::StartPlane => "event start plane",
        Event::RestorePlane(_) => "event restore plane",
        Event::Save(..) => "event save",
        Event::KillHost(_) => "event kill host",
        Event::StartHost(_) => "event start host",
        Event::KillAgent(_) => "event kill agent",
        Event::StartAgent(_) => "event start agent",
        Event::Pause(_) => "event pause",
        Event::Resume(_) => "event resume",
        Event::Snapshot(_) => "event snapshot",
        Event::Restore(_) => "event restore",
        Event::NewLife(_) => "event new life",
        Event::Terminate(_) => "event terminate",
        Event::Replace(..) => "event replace",
    }
}
