//! Attackers that are not let in: they connect, and say little or nonsense.

use std::collections::VecDeque;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use moorline_shared::link::Kind;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as dial, socket_with};

use super::tally::Tally;
use crate::frames::{get, header};

/// More connections than a host keeps of a guest that says no HELLO.
const OPEN: usize = 100;
/// Between two bytes of one that writes slowly.
const DRIP: Duration = Duration::from_millis(20);
/// How many connections are begun before it is told how far it came.
const ROUND: u32 = 64;

/// Connects without waiting; nothing where too many wait already.
fn knock(guest: &Path) -> Result<Option<UnixStream>> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let connected = dial(&socket, &SocketAddrUnix::new(guest)?);
    Ok(connected.is_ok().then(|| socket.into()))
}

/// Connects again and again, and leaves at once; every other time it says what has no place before HELLO.
pub(super) fn connect(guest: &Path, tally: &mut Tally) -> Result<()> {
    for nth in 0..ROUND {
        let Some(mut socket) = knock(guest)? else {
            continue;
        };
        tally.act();
        if nth % 2 == 0 {
            // The host may have hung up already.
            let _ = socket.write_all(&get(1, "name"));
        }
    }
    tally.tell();
    Ok(())
}

/// Says what is no frame, each time on another connection.
pub(super) fn talk_nonsense(guest: &Path, tally: &mut Tally) -> Result<()> {
    let hello = Kind::Hello as u8;
    let nonsense = [
        header(0, hello, 0, 0),
        header(u32::MAX, hello, 0, 0),
        header(1_025, hello, 0, 0),
        header(4, 0xff, 0, 0),
        header(4, hello, 0x80, 0),
    ];
    for bytes in nonsense {
        if let Some(mut socket) = knock(guest)? {
            tally.act();
            let _ = socket.write_all(&bytes);
        }
    }
    tally.tell();
    Ok(())
}

/// Keeps as many connections as it can, and writes a byte of a frame on each now and then.
pub(super) fn drip(guest: &Path, tally: &mut Tally) -> Result<()> {
    let frame = header(1_000, Kind::Hello as u8, 0, 0);
    let mut open: VecDeque<(UnixStream, usize)> = VecDeque::new();
    loop {
        while open.len() < OPEN
            && let Some(socket) = knock(guest)?
        {
            open.push_back((socket, 0));
            tally.act();
        }
        open.retain_mut(|(socket, written)| {
            // Behind its header a frame goes on with anything.
            let byte = frame.get(*written).copied().unwrap_or(b'x');
            *written += 1;
            socket.write_all(&[byte]).is_ok()
        });
        tally.tell();
        std::thread::sleep(DRIP);
    }
}
