//! Questions to the kernel over netlink: whose a TCP connection is ([`sock_diag`]), and an address on the loopback device
//! ([`loopback`]). The messages are pure; [`Netlink`] is the one place that speaks.

mod loopback;
mod sock_diag;

pub use loopback::{LoopbackAddress, LoopbackError};
pub use sock_diag::{Connection, Owner, SockDiag};

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recvfrom, send, socket,
};

/// The length of a message's header, in bytes.
const HEADER: usize = 16;
/// The longest answer to any question here, in bytes, with much to spare.
const MOST_ANSWER: usize = 2 * 1024;
/// `NLMSG_ERROR`: the answer is an error number, 0 for none.
const ERROR: u16 = 2;

/// A question to the kernel.
struct Request<'a> {
    kind: u16,
    flags: u16,
    body: &'a [u8],
}

/// What the kernel says to a question.
#[derive(Debug, PartialEq, Eq)]
enum Answer<'a> {
    /// It is done.
    Done,
    /// It is not done.
    Failed(Errno),
    /// A message of another kind.
    Message { kind: u16, body: &'a [u8] },
}

/// A socket on which the kernel is asked one question at a time.
#[derive(Debug)]
struct Netlink {
    socket: OwnedFd,
    sequence: Cell<u32>,
}

impl Netlink {
    fn open(protocol: SockProtocol) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: Cell::new(0),
        })
    }

    /// Asks and takes the answer, which is there when the question is sent: the kernel answers these while it is asked.
    fn ask<T>(&self, request: &Request<'_>, take: impl FnOnce(Answer<'_>) -> T) -> io::Result<T> {
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let message = request.message(sequence);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut buffer = [0; MOST_ANSWER];
        loop {
            let (length, from) = recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), &mut buffer)?;
            // Anything but the kernel's word on this very question is left over from another, or not the kernel's.
            if from.is_some_and(|from| from.pid() == 0)
                && let Some(answer) = answer(&buffer[..length], sequence)
            {
                return Ok(take(answer));
            }
        }
    }
}

impl Request<'_> {
    fn message(&self, sequence: u32) -> Vec<u8> {
        let length = HEADER + self.body.len();
        let mut message = Vec::with_capacity(length);
        message.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        message.extend(self.kind.to_ne_bytes());
        message.extend(self.flags.to_ne_bytes());
        message.extend(sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(self.body);
        message
    }
}

/// Reads a message; nothing if it isn't whole or answers another question.
fn answer(message: &[u8], sequence: u32) -> Option<Answer<'_>> {
    let length = usize::try_from(u32_at(message, 0)?).ok()?;
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    let body = message.get(HEADER..length)?;
    if u32_at(message, 8)? != sequence {
        return None;
    }
    if kind != ERROR {
        return Some(Answer::Message { kind, body });
    }
    let number = u32_at(body, 0)?.cast_signed();
    Some(match number {
        0 => Answer::Done,
        number => Answer::Failed(Errno::from_raw(number.wrapping_neg())),
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(four.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{Answer, ERROR, Errno, Request, answer};
    use proptest::prelude::*;

    fn message(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let flags = 0;
        Request { kind, flags, body }.message(sequence)
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(kind in 3_u16.., sequence: u32, body: Vec<u8>, cut in 0_usize..100) {
            let whole = message(kind, sequence, &body);
            prop_assert_eq!(answer(&whole, sequence), Some(Answer::Message { kind, body: &body }));
            prop_assert_eq!(answer(&whole, sequence.wrapping_add(1)), None);
            let cut = cut % whole.len();
            prop_assert_eq!(answer(&whole[..cut], sequence), None);
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes: Vec<u8>, sequence: u32) {
            let _ = answer(&bytes, sequence);
        }
    }

    #[test]
    fn errors_are_told_from_success() {
        let said = |number: i32| message(ERROR, 7, &number.to_ne_bytes());
        assert_eq!(answer(&said(0), 7), Some(Answer::Done));
        assert_eq!(answer(&said(-2), 7), Some(Answer::Failed(Errno::ENOENT)));
        assert!(answer(&said(i32::MIN), 7).is_some());
    }
}
