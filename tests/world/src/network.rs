//! What is under way between the processes. Bytes of a connection and lines of a feed keep their order, as sockets keep
//! it; a connection may die with what is on it at any time, at both ends or seen by one only. Calls between a host and
//! the control plane overtake one another, get lost in either direction, and are made twice.

use std::collections::VecDeque;

use moorline_shared::api::feed::FeedMessage;

use crate::host::{Call, Outcome};

/// A connection of a guest to its host.
#[derive(Debug)]
pub struct Wire {
    /// What the host knows it by.
    pub token: u64,
    /// Whose it is.
    pub slot: usize,
    /// Whether the guest's end is there. What it sent before may arrive all the same.
    pub guest_end: Stage,
    /// Whether the host's end is there.
    pub host_end: Stage,
    /// Nothing gets through any more, and nobody is told.
    pub swallows: bool,
    /// To the host.
    pub up: VecDeque<u8>,
    /// To the guest.
    pub down: VecDeque<u8>,
}

/// Whether an end of a connection is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is.
    Open,
    /// It isn't any more.
    Closed,
}

/// A feed.
#[derive(Debug, Default)]
pub struct Feed {
    /// The lines that are under way.
    pub lines: VecDeque<FeedMessage>,
    /// Nothing gets through any more, and nobody is told.
    pub swallows: bool,
}

/// A call of a host, and where it is.
#[derive(Debug)]
pub struct Errand {
    /// Whose.
    pub host: usize,
    /// Of which of its processes.
    pub boot: u64,
    /// Where it is.
    pub stage: Leg,
}

/// Which way a call is on.
#[derive(Debug)]
pub enum Leg {
    /// To the control plane.
    Asking(Call),
    /// To the control plane as well, for the second time; nobody waits for the answer.
    Echo(Call),
    /// Back. What its asker takes from it if this is lost stands beside.
    Answering(Call, Outcome),
}

/// All of it.
#[derive(Debug, Default)]
pub struct Network {
    /// Connections of guests, the oldest first.
    pub wires: Vec<Wire>,
    /// The feed of each host, while there is one.
    pub feeds: [Option<Feed>; crate::HOSTS],
    /// Calls.
    pub errands: Vec<Errand>,
    /// Hosts that the control plane is cut off from.
    pub cut_off: [bool; crate::HOSTS],
    tokens: u64,
}

impl Network {
    /// A connection of the guest in this slot.
    pub fn connect(&mut self, slot: usize) -> u64 {
        self.tokens += 1;
        self.wires.push(Wire {
            token: self.tokens,
            slot,
            guest_end: Stage::Open,
            host_end: Stage::Open,
            swallows: false,
            up: VecDeque::new(),
            down: VecDeque::new(),
        });
        self.tokens
    }

    /// The connection that is known by this.
    pub fn wire(&mut self, token: u64) -> Option<&mut Wire> {
        self.wires.iter_mut().find(|wire| wire.token == token)
    }

    /// Forgets connections that nobody has an end of, or on which nothing can arrive.
    pub fn tidy(&mut self) {
        self.wires
            .retain(|wire| wire.guest_end == Stage::Open || wire.host_end == Stage::Open);
    }

    /// Something has lasted too long: what is under way never arrives.
    pub fn swallow_late(&mut self) {
        for wire in &mut self.wires {
            wire.swallows |= !wire.up.is_empty() || !wire.down.is_empty();
        }
        for feed in self.feeds.iter_mut().flatten() {
            feed.swallows |= !feed.lines.is_empty();
        }
    }
}
