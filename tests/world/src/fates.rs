//! What becomes of processes and machines.

use moorline_host::link::LifeId;
use moorline_shared::{InstanceId, Revision};

use crate::agent::{Agent, Over};
use crate::event::Event;
use crate::mutant::Mutant;
use crate::network::Stage;
use crate::world::{World, host_of};
use crate::{HOSTS, SLOTS};

impl World {
    pub(crate) fn process(&mut self, event: &Event) {
        match *event {
            Event::KillPlane => {
                self.plane.kill();
                self.cut_feeds();
            }
            Event::StartPlane => self.plane.start(self.clock),
            Event::RestorePlane(back) => {
                let head = self.plane.head();
                let oldest = self.truth.oldest(head.epoch);
                let n = head.n.saturating_sub(back).max(oldest);
                self.plane.restore(n, self.clock);
                self.ledger.restored(Revision::new(head.epoch, n));
                self.truth.follow(&self.plane, self.clock);
                self.cut_feeds();
            }
            Event::Save(host, round) => {
                let (clock, mutant) = (self.clock, self.mutant);
                if let Some(daemon) = &self.hosts[host] {
                    self.disks[host].write(daemon, round, clock, mutant);
                }
            }
            Event::KillHost(host) => {
                self.hosts[host] = None;
                self.net.feeds[host] = None;
                self.plane.feed_lost(host);
                for wire in 0..self.net.wires.len() {
                    if host_of(self.net.wires[wire].slot) == host {
                        self.net.wires[wire].host_end = Stage::Closed;
                        self.net.wires[wire].down.clear();
                        self.hang_up(wire, Over::Fault);
                    }
                }
            }
            Event::StartHost(host) => {
                self.start_host(host);
                self.forget_what_was_shown();
            }
            Event::KillAgent(slot) => {
                let now = self.guest_now(slot);
                if let Some(agent) = self.guests[slot].agent.take() {
                    self.guests[slot].disk = agent.programs.on_disk(now);
                    self.drop_agent(agent);
                }
            }
            Event::StartAgent(slot) => {
                let guest = &mut self.guests[slot];
                if guest.agent.is_none() && guest.instance.is_some() {
                    guest.agent = Some(Agent::start(std::mem::take(&mut guest.disk)));
                    self.forget_what_was_shown();
                }
            }
            _ => {}
        }
    }

    /// What an agent showed and its host had is nowhere any more, if both were killed before the host wrote it down. Until
    /// the host is in step again, the guest is shown what the disk has, and its age.
    fn forget_what_was_shown(&mut self) {
        for slot in 0..SLOTS {
            let guest = &mut self.guests[slot];
            let agent = guest.agent.as_ref();
            let shown = agent.and_then(|agent| agent.mirror.revision());
            let host = self.hosts[host_of(slot)].as_ref();
            let own = host.zip(guest.instance.as_ref());
            let own = own.and_then(|(host, instance)| host.floor.cache().own(instance));
            let known = own.map(moorline_host::cache::View::known);
            if shown.is_none() && known < guest.seen {
                guest.seen = None;
            }
        }
    }

    /// The control plane is gone, and every host sees its feed end.
    fn cut_feeds(&mut self) {
        for host in 0..HOSTS {
            if !self.net.cut_off[host] && self.net.feeds[host].is_some() {
                self.lose_feed(host);
            }
        }
    }

    pub(crate) fn machine(&mut self, event: &Event) {
        match *event {
            Event::Pause(slot) => self.guests[slot].paused = self.guests[slot].agent.is_some(),
            Event::Resume(slot) => self.guests[slot].paused = false,
            Event::Snapshot(slot) => {
                let now = self.guest_now(slot);
                let guest = &mut self.guests[slot];
                guest.snapshot = guest.agent.as_ref().map(|agent| (agent.freeze(), now.0));
            }
            Event::Restore(slot) => self.restore(slot),
            Event::NewLife(slot) => self.new_life(slot),
            Event::Replace(slot, copy) => self.replace(slot, copy),
            _ => {}
        }
    }

    /// The old socket may never wake: what it had under way goes on for a while.
    fn restore(&mut self, slot: usize) {
        let Some((frozen, ms)) = self.guests[slot].snapshot.clone() else {
            return;
        };
        if let Some(agent) = self.guests[slot].agent.take() {
            self.drop_agent(agent);
        }
        let guest = &mut self.guests[slot];
        guest.lag = self.clock.ms() - ms;
        guest.paused = false;
        guest.seen = None;
        guest.restored_ms = self.clock.ms();
        let now = moorline_shared::link::Moment(ms);
        guest.agent = Some(Agent::thaw(frozen, now));
        self.count("a machine is put back");
    }

    /// The machine is switched off and on: the agent begins anew, and the one before may not know yet that it is gone.
    fn new_life(&mut self, slot: usize) {
        let host = host_of(slot);
        let now = self.guest_now(slot);
        let Some(instance) = self.guests[slot].instance else {
            return;
        };
        let Some(daemon) = &mut self.hosts[host] else {
            return;
        };
        let incarnation = self.guests[slot].life + 1;
        let own = daemon.floor.cache().own(&instance);
        let known = own.map(moorline_host::cache::View::known);
        let agent = self.guests[slot].agent.as_ref();
        let until = known.max(agent.and_then(|agent| agent.mirror.revision()));
        let until = until.unwrap_or(Revision::ZERO);
        let life = LifeId {
            instance,
            incarnation,
        };
        if self.mutant != Mutant::UndeadLife {
            let begun = daemon.floor.begin(life, None);
            begun.expect("lives are counted");
        }
        let guest = &mut self.guests[slot];
        guest.life = incarnation;
        guest.paused = false;
        guest.snapshot = None;
        let before = guest.agent.take();
        if let Some(agent) = &before {
            guest.disk = agent.programs.on_disk(now);
        }
        guest.agent = Some(Agent::start(std::mem::take(&mut guest.disk)));
        if let Some(agent) = before {
            self.become_ghost(slot, agent, until);
        }
        self.forget_what_was_shown();
        self.count("a life begins");
    }

    fn replace(&mut self, slot: usize, copy: bool) {
        let host = host_of(slot);
        if self.guests[slot].instance.is_some() || !self.plane.runs() || self.hosts[host].is_none() {
            return;
        }
        self.numbers += 1;
        let mut id = [0xee; 16];
        id[..8].copy_from_slice(&self.numbers.to_be_bytes());
        let instance = InstanceId::from_bytes(id);
        if !self.plane.register(slot, instance, self.numbers) {
            return;
        }
        self.truth.follow(&self.plane, self.clock);
        let life = LifeId {
            instance,
            incarnation: 1,
        };
        if let Some(daemon) = &mut self.hosts[host] {
            daemon.floor.begin(life, None).expect("it is its first life");
        }
        // A copy of the disk and of the memory of the machine that was in the slot before.
        let copied = self.ghost.take_if(|ghost| copy && ghost.slot == slot);
        let now = self.guest_now(slot);
        let agent = copied.map(|ghost| {
            let frozen = ghost.agent.freeze();
            self.drop_agent(ghost.agent);
            Agent::thaw(frozen, now)
        });
        if agent.is_some() {
            self.count("a machine becomes another instance's");
        }
        let guest = &mut self.guests[slot];
        (guest.instance, guest.life) = (Some(instance), 1);
        guest.agent = Some(agent.unwrap_or_default());
        self.count("a slot is used again");
    }
}
