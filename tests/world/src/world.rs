//! The processes and what is between them, and the single steps by which anything moves.

use std::collections::BTreeMap;

use moorline_host::link::{Arrival, End, Ended, LifeId};
use moorline_host::uplink::SpecChange;
use moorline_shared::InstanceId;
use moorline_shared::link::Moment;
use moorline_shared::link::session::Outbox;

use crate::agent::{Agent, Frozen, Over};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::host::{Call, Host, is_to_end};
use crate::ledger::Ledger;
use crate::mutant::Mutant;
use crate::network::{Errand, Leg, Network, Stage, Wire};
use crate::plane::{Lines, Plane};
use crate::programs::Programs;
use crate::truth::Truth;
use crate::{HOSTS, SLOTS};

/// The most bytes of a connection that are under way in one direction.
const SOCKET_BYTES: usize = 64 * 1024;

/// Everything.
#[derive(Debug)]
pub struct World {
    /// The time.
    pub clock: Clock,
    /// What is wrong.
    pub mutant: Mutant,
    /// The control plane.
    pub plane: Plane,
    /// The hosts; none where the daemon doesn't run.
    pub hosts: [Option<Host>; HOSTS],
    /// Their disks.
    pub disks: [Disk; HOSTS],
    /// The guests, two on each host.
    pub guests: [Guest; SLOTS],
    /// What is between them.
    pub net: Network,
    /// What the master copy was.
    pub truth: Truth,
    /// What programs asked for and were told.
    pub ledger: Ledger,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// What was found wrong outside of the checks.
    pub wrong: Option<String>,
    /// An agent whose machine's life is over, and that goes on all the same.
    pub ghost: Option<Ghost>,
    pub(crate) boots: u64,
    pub(crate) numbers: u64,
}

/// A slot for a machine on a host.
#[derive(Debug, Default)]
pub struct Guest {
    /// The instance whose machine it is; none between two.
    pub instance: Option<InstanceId>,
    /// Which life of the machine this is.
    pub life: u64,
    /// The agent, while it runs.
    pub agent: Option<Agent>,
    /// What is on the disk while it doesn't.
    pub disk: Programs,
    /// The machine stands still.
    pub paused: bool,
    /// How far its clock is behind the world's, in milliseconds.
    pub lag: u64,
    /// A snapshot of it, and what its clock said then.
    pub snapshot: Option<(Frozen, u64)>,
    /// When it was put back to a snapshot, in milliseconds.
    pub restored_ms: u64,
    /// The latest revision that a program could see.
    pub seen: Option<moorline_shared::Revision>,
}

/// An agent that should be gone.
#[derive(Debug)]
pub struct Ghost {
    /// Where it was.
    pub slot: usize,
    /// It.
    pub agent: Agent,
    /// Nothing later may reach it.
    pub until: moorline_shared::Revision,
}

/// What can move next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Bytes of a connection to the host.
    Up(u64),
    /// Bytes of a connection to the guest.
    Down(u64),
    /// A transaction to the feeds.
    Dispatch,
    /// What waits for a host onto its feed.
    Pass(usize),
    /// A line of a feed to its host.
    Line(usize),
    /// A call, one leg further.
    Errand(usize),
}

/// Whether anything moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Something did.
    Yes,
    /// There was nothing to move.
    No,
}

/// The host that a slot is on.
pub const fn host_of(slot: usize) -> usize {
    slot * HOSTS / SLOTS
}

impl World {
    /// Counts something.
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// The time in a guest.
    pub fn guest_now(&self, slot: usize) -> Moment {
        Moment(self.clock.ms() - self.guests[slot].lag)
    }

    /// The agent at the guest's end of a connection, and its time.
    fn agent_of(&mut self, wire: usize) -> Option<(&mut Agent, Moment)> {
        let Wire { token, slot, .. } = self.net.wires[wire];
        let now = self.guest_now(slot);
        let speaks = |agent: &Agent| agent.link.as_ref().is_some_and(|link| link.token == token);
        if self.guests[slot].agent.as_ref().is_some_and(speaks) {
            let paused = self.guests[slot].paused;
            let agent = self.guests[slot].agent.as_mut();
            return agent.filter(|_| !paused).map(|agent| (agent, now));
        }
        let ghost = self.ghost.as_mut().map(|ghost| &mut ghost.agent);
        ghost.filter(|agent| speaks(agent)).map(|agent| (agent, now))
    }

    /// Everything that can move, in an order that is always the same.
    pub fn moves(&mut self) -> Vec<Move> {
        let mut moves = Vec::new();
        for wire in 0..self.net.wires.len() {
            self.flush(wire);
            let wire = &self.net.wires[wire];
            let host = self.hosts[host_of(wire.slot)].is_some();
            if !wire.up.is_empty() && wire.host_end == Stage::Open && host {
                moves.push(Move::Up(wire.token));
            }
            if !wire.down.is_empty() && wire.guest_end == Stage::Open && !self.guests[wire.slot].paused {
                moves.push(Move::Down(wire.token));
            }
        }
        moves.push(Move::Dispatch);
        for host in 0..HOSTS {
            if self.plane.feeds(host) {
                moves.push(Move::Pass(host));
            }
            let feed = self.net.feeds[host].as_ref();
            if feed.is_some_and(|feed| !feed.lines.is_empty() && !feed.swallows) {
                moves.push(Move::Line(host));
            }
        }
        moves.extend((0..self.net.errands.len()).map(Move::Errand));
        moves
    }

    /// Moves one thing on.
    pub fn move_on(&mut self, what: Move, bytes: usize) -> Moved {
        let mut moved = Moved::Yes;
        match what {
            Move::Up(token) => self.up(token, bytes),
            Move::Down(token) => self.down(token, bytes),
            Move::Dispatch => moved = self.plane.dispatch(),
            Move::Pass(host) => moved = self.pass(host),
            Move::Line(host) => self.line(host),
            Move::Errand(place) if place < self.net.errands.len() => self.errand(place),
            Move::Errand(_) => moved = Moved::No,
        }
        self.after_host_work();
        moved
    }

    /// Hands what the sessions have to say to the network.
    fn flush(&mut self, wire: usize) {
        if let Some((agent, now)) = self.agent_of(wire)
            && let Some(link) = &mut agent.link
        {
            let bytes = taken(link.core.outbox(), now);
            self.net.wires[wire].up.extend(bytes);
        }
        let (token, host) = (self.net.wires[wire].token, host_of(self.net.wires[wire].slot));
        let now = self.clock.moment();
        let Some(daemon) = self.hosts[host].as_mut() else {
            return;
        };
        if self.net.wires[wire].down.len() < SOCKET_BYTES
            && let Some(outbox) = daemon.floor.outbox(token)
        {
            let bytes = taken(outbox, now);
            self.net.wires[wire].down.extend(bytes);
        }
        if self.net.wires[wire].down.is_empty() && daemon.floor.is_leaving(token) {
            daemon.close(token, &End::Sent);
        }
        if daemon.floor.outbox(token).is_none() {
            self.net.wires[wire].host_end = Stage::Closed;
        }
        if self.net.wires[wire].swallows {
            self.net.wires[wire].up.clear();
            self.net.wires[wire].down.clear();
        }
    }

    fn up(&mut self, token: u64, bytes: usize) {
        let Some(wire) = self.net.wire(token) else {
            return;
        };
        let count = bytes.min(wire.up.len());
        let (slot, piece) = (wire.slot, wire.up.drain(..count).collect::<Vec<_>>());
        if wire.guest_end == Stage::Closed {
            self.count("late bytes reach a host");
        }
        if let Some(host) = &mut self.hosts[host_of(slot)]
            && !host.receive(token, &piece)
            && let Some(wire) = self.net.wire(token)
        {
            wire.host_end = Stage::Closed;
        }
    }

    fn down(&mut self, token: u64, bytes: usize) {
        let Some(place) = self.net.wires.iter().position(|wire| wire.token == token) else {
            return;
        };
        let wire = &mut self.net.wires[place];
        let count = bytes.min(wire.down.len());
        let piece: Vec<u8> = wire.down.drain(..count).collect();
        let mutant = self.mutant;
        if let Some((agent, now)) = self.agent_of(place)
            && let Err(over) = agent.receive(&piece, now, mutant)
        {
            self.hang_up(place, over);
        }
    }

    /// A guest ends its end of a connection.
    pub fn hang_up(&mut self, wire: usize, over: Over) {
        if let Some((agent, now)) = self.agent_of(wire) {
            agent.hung_up(over, now);
        }
        self.net.wires[wire].guest_end = Stage::Closed;
        if over == Over::Fault || over == Over::Batch {
            self.count(if over == Over::Batch {
                "a batch doesn't fit"
            } else {
                "a guest gives a session up"
            });
        }
    }

    fn pass(&mut self, host: usize) -> Moved {
        let (mutant, clock) = (self.mutant, self.clock);
        let Some(feed) = &mut self.net.feeds[host] else {
            self.plane.feed_lost(host);
            return Moved::No;
        };
        let lines = &mut feed.lines;
        self.plane.pass(host, &mut Lines { lines, mutant }, clock)
    }

    fn line(&mut self, host: usize) {
        let (mutant, clock) = (self.mutant, self.clock);
        let line = self.net.feeds[host].as_mut();
        let Some(line) = line.and_then(|feed| feed.lines.pop_front()) else {
            return;
        };
        self.count_line(&line);
        let Some(daemon) = &mut self.hosts[host] else {
            return;
        };
        match daemon.take(line, clock, mutant) {
            Ok(machines) => self.machines(host, &machines),
            Err(_) => self.lose_feed(host),
        }
    }

    fn count_line(&mut self, line: &moorline_shared::api::feed::FeedMessage) {
        use moorline_shared::api::feed::{FeedItem, FeedMessage};
        let items = match line {
            FeedMessage::Batch { items, .. } | FeedMessage::Part { items } => items,
            FeedMessage::Snapshot { from: Some(_), .. } => return self.count("a feed goes on from a cursor"),
            FeedMessage::Snapshot { from: None, .. } => return self.count("a feed begins from nothing"),
            _ => return,
        };
        if items
            .iter()
            .any(|item| matches!(item, FeedItem::Entry { entry: None, .. }))
        {
            self.count("an entry is withdrawn");
        }
        if items.len() > 1 {
            self.count("a batch has several items");
        }
    }

    /// What the feed wants of the machines of a host.
    fn machines(&mut self, host: usize, changes: &[SpecChange]) {
        let mut ended: Vec<_> = changes.iter().filter_map(is_to_end).collect();
        if changes.contains(&SpecChange::Complete) {
            ended.extend(self.unnamed(host));
        }
        for instance in ended {
            let slot = self
                .guests
                .iter()
                .position(|guest| guest.instance == Some(instance));
            let Some(slot) = slot.filter(|slot| host_of(*slot) == host) else {
                continue;
            };
            self.end_life(slot);
            let life = self.guests[slot].life;
            if let Some(daemon) = &mut self.hosts[host] {
                daemon.floor.end(instance, Ended(life));
                let stage = Leg::Asking(Call::Ended(instance, life));
                let boot = daemon.boot;
                self.net.errands.push(Errand { host, boot, stage });
            }
        }
    }

    /// The instances of a host that were not named when all were.
    fn unnamed(&self, host: usize) -> Vec<InstanceId> {
        let Some(daemon) = &self.hosts[host] else {
            return Vec::new();
        };
        let lives = self.lives(host).into_iter().map(|life| life.instance);
        lives.filter(|instance| !daemon.course.has(instance)).collect()
    }

    /// The machine in a slot is gone, and its agent with it, or nearly.
    pub(crate) fn end_life(&mut self, slot: usize) {
        let host = host_of(slot);
        let guest = &mut self.guests[slot];
        let instance = guest.instance.take();
        guest.snapshot = None;
        guest.paused = false;
        guest.seen = None;
        let agent = guest.agent.take();
        guest.disk = Programs::default();
        let until = instance.and_then(|instance| {
            let own = self.hosts[host].as_ref()?.floor.cache().own(&instance)?;
            Some(own.known())
        });
        if let Some(agent) = agent {
            let until = until.max(agent.mirror.revision()).unwrap_or_default();
            self.become_ghost(slot, agent, until);
        }
    }

    /// An agent goes on though the life of its machine is over. There is one ghost at a time.
    pub(crate) fn become_ghost(&mut self, slot: usize, agent: Agent, until: moorline_shared::Revision) {
        if let Some(before) = self.ghost.replace(Ghost { slot, agent, until }) {
            self.drop_agent(before.agent);
        }
    }

    /// A process ends: its connection's end is closed.
    pub(crate) fn drop_agent(&mut self, agent: Agent) {
        if let Some(link) = agent.link
            && let Some(wire) = self.net.wire(link.token)
        {
            wire.guest_end = Stage::Closed;
        }
    }

    /// Takes up what the hosts have to say and to ask.
    pub(crate) fn after_host_work(&mut self) {
        for host in 0..HOSTS {
            let Some(daemon) = &mut self.hosts[host] else {
                continue;
            };
            while let Some(token) = daemon.floor.next_due() {
                daemon.receive(token, &[]);
            }
            let boot = daemon.boot;
            let calls = daemon.calls(self.clock);
            let errands = calls.into_iter().map(Leg::Asking);
            self.net
                .errands
                .extend(errands.map(|stage| Errand { host, boot, stage }));
        }
        self.net.tidy();
    }

    /// A guest dials its host, if it has no connection.
    pub(crate) fn dial(&mut self, slot: usize) {
        let now = self.guest_now(slot);
        let guest = &mut self.guests[slot];
        let (Some(agent), Some(instance)) = (&mut guest.agent, guest.instance) else {
            return;
        };
        if guest.paused || agent.link.is_some() || agent.dial_at > now.0 {
            return;
        }
        let Some(daemon) = &mut self.hosts[host_of(slot)] else {
            return;
        };
        let token = self.net.connect(slot);
        let mut nonce = [7; 16];
        nonce[..8].copy_from_slice(&token.to_le_bytes());
        match daemon.floor.arrive(instance, token, nonce) {
            Arrival::Greeted => agent.dialled(token, now),
            Arrival::TurnedAway => {
                agent.dial_at = now.0 + 1_000;
                self.net.wires.pop();
            }
        }
    }

    /// The lives of machines on a host.
    pub(crate) fn lives(&self, host: usize) -> Vec<LifeId> {
        let on_it = (0..SLOTS).filter(|slot| host_of(*slot) == host);
        let life = |slot: usize| {
            let guest = &self.guests[slot];
            let (instance, incarnation) = (guest.instance?, guest.life);
            Some(LifeId {
                instance,
                incarnation,
            })
        };
        on_it.filter_map(life).collect()
    }

    /// The network ends a connection, as the host sees it.
    pub(crate) fn cut_host_end(&mut self, wire: usize) {
        let Wire { token, slot, .. } = self.net.wires[wire];
        self.net.wires[wire].host_end = Stage::Closed;
        if let Some(daemon) = &mut self.hosts[host_of(slot)] {
            daemon.close(token, &End::HungUp);
        }
    }
}

/// All that an outbox has to be written.
fn taken(outbox: &mut Outbox, now: Moment) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let output = outbox.output();
        if output.is_empty() {
            return bytes;
        }
        bytes.extend_from_slice(output);
        let count = output.len();
        outbox.wrote(count, now);
    }
}
