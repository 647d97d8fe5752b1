//! One connection's socket: reads, has the session answer, writes.

use std::os::fd::OwnedFd;

use moorline_shared::link::Moment;
use moorline_shared::link::session::Outbox;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::desk::Desk;
use super::poll::{Interest, Ready};
use super::talk::{End, Progress, Talk};

/// The most bytes in one write: vsock of some kernels stalls on more.
const MAX_WRITE: usize = 32 * 1024;
/// How many bytes are written before the other guests have their turn.
const TURN_BYTES: usize = 256 * 1024;
/// How often answers are made from what is read already before the other guests have their turn.
const TURN_ROUNDS: usize = 4;

/// The socket of a guest's connection.
#[derive(Debug)]
pub(super) struct Conn {
    /// Whether the shard goes on with it in its next turn.
    pub(super) goes_on: bool,
    socket: OwnedFd,
    /// What was read and not handled: a piece of a frame, or what came while too many answers waited.
    unhandled: Vec<u8>,
    interest: Interest,
}

/// What came of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) progress: Progress,
    /// What the socket has to be waited for from now on, if that is something else than before.
    pub(super) interest: Option<Interest>,
    pub(super) rest: Rest,
}

/// Whether a turn ended before everything was done that could be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    None,
    More,
}

/// How far writing came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// Everything that may go has gone.
    All,
    /// The socket takes no more for now.
    Blocked,
    /// Others have their turn.
    Enough,
}

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Filled {
    bytes: usize,
    /// The buffer was filled, so there may be more.
    rest: Rest,
}

impl Conn {
    /// A connection was accepted.
    pub(super) const fn new(socket: OwnedFd) -> Self {
        Self {
            goes_on: false,
            socket,
            unhandled: Vec::new(),
            interest: Interest::READ,
        }
    }

    /// The socket, for the shard's epoll instance.
    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// The socket has become ready: reads, answers, writes.
    pub(super) fn on_ready(
        &mut self,
        ready: Ready,
        buffer: &mut [u8],
        (talk, desk): (&mut Talk, &mut Desk),
    ) -> Result<Turn, End> {
        if ready.broken && !self.interest.read {
            return Err(End::HungUp);
        }
        let mut filled = if ready.read && self.interest.read {
            self.read(buffer)?
        } else {
            self.take_up(buffer)
        };
        if ready.ended {
            // The end is said once, together with what came before it.
            filled.rest = Rest::More;
        }
        self.turn(buffer, filled, (talk, desk))
    }

    /// The last turn left something to do.
    pub(super) fn resume(
        &mut self,
        buffer: &mut [u8],
        (talk, desk): (&mut Talk, &mut Desk),
    ) -> Result<Turn, End> {
        let filled = if self.interest.read {
            self.read(buffer)?
        } else {
            self.take_up(buffer)
        };
        self.turn(buffer, filled, (talk, desk))
    }

    /// Something happened elsewhere: sends what there is to send.
    pub(super) fn nudge(
        &mut self,
        buffer: &mut [u8],
        (talk, desk): (&mut Talk, &mut Desk),
    ) -> Result<Turn, End> {
        let filled = self.take_up(buffer);
        self.turn(buffer, filled, (talk, desk))
    }

    /// Puts what is unhandled into the buffer.
    fn take_up(&mut self, buffer: &mut [u8]) -> Filled {
        let bytes = self.unhandled.len();
        buffer[..bytes].copy_from_slice(&self.unhandled);
        let rest = Rest::None;
        Filled { bytes, rest }
    }

    /// The same, and behind it what can be read.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Filled, End> {
        let kept = self.take_up(buffer);
        let room = &mut buffer[kept.bytes..];
        let most = room.len();
        match rustix::net::recv(&self.socket, room, RecvFlags::empty()) {
            Ok((_, 0)) if most > 0 => Err(End::HungUp),
            Ok((_, count)) => Ok(Filled {
                bytes: kept.bytes + count,
                rest: if count == most { Rest::More } else { Rest::None },
            }),
            Err(Errno::AGAIN) => Ok(kept),
            Err(Errno::INTR) => Ok(Filled {
                rest: Rest::More,
                ..kept
            }),
            Err(error) => Err(End::Socket(error)),
        }
    }

    fn turn(
        &mut self,
        buffer: &[u8],
        filled: Filled,
        (talk, desk): (&mut Talk, &mut Desk),
    ) -> Result<Turn, End> {
        let (mut at, mut progress) = (0, Progress::Nothing);
        let mut written = Written::All;
        for _ in 0..TURN_ROUNDS {
            let (taken, welcomed) = talk.exchange(&buffer[at..filled.bytes], desk)?;
            at += taken;
            if welcomed == Progress::Welcomed {
                progress = welcomed;
            }
            written = self.write(talk.core.outbox(), desk.now)?;
            if !talk.is_held_back() || written != Written::All {
                break;
            }
        }
        self.keep(&buffer[at..filled.bytes]);
        let leaving = talk.is_leaving();
        if written == Written::All && leaving {
            return Err(End::Sent);
        }
        let unfinished = written == Written::Enough || (talk.is_held_back() && written == Written::All);
        let interest = Interest {
            read: !talk.is_held_back() && !leaving,
            write: written == Written::Blocked,
        };
        Ok(Turn {
            progress,
            interest: (std::mem::replace(&mut self.interest, interest) != interest).then_some(interest),
            rest: if unfinished { Rest::More } else { filled.rest },
        })
    }

    fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            // An idle connection holds no buffer.
            self.unhandled = Vec::new();
        } else {
            self.unhandled.clear();
            self.unhandled.extend_from_slice(rest);
        }
    }

    fn write(&self, outbox: &mut Outbox, now: Moment) -> Result<Written, End> {
        let mut left = TURN_BYTES;
        loop {
            let output = outbox.output();
            if output.is_empty() {
                return Ok(Written::All);
            }
            if left == 0 {
                return Ok(Written::Enough);
            }
            let piece = &output[..output.len().min(MAX_WRITE).min(left)];
            let size = piece.len();
            match rustix::net::send(&self.socket, piece, SendFlags::NOSIGNAL) {
                Ok(count) => {
                    outbox.wrote(count, now);
                    left -= count;
                    if count < size {
                        return Ok(Written::Blocked);
                    }
                }
                Err(Errno::AGAIN) => return Ok(Written::Blocked),
                Err(Errno::INTR) => {}
                Err(error) => return Err(End::Socket(error)),
            }
        }
    }
}
