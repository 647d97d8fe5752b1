//! The physical limit: a request's bytes in, a reply's bytes out, one epoll loop.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::plan::{Echo, READY};
use crate::poll::Poll;

/// What a connection begins with: the two sizes as `u32`, little endian.
pub(crate) fn preamble(request_bytes: usize, reply_bytes: usize) -> Result<[u8; 8]> {
    let size = |bytes: usize| u32::try_from(bytes).context("a size fits 32 bits");
    let mut sizes = [0; 8];
    sizes[..4].copy_from_slice(&size(request_bytes)?.to_le_bytes());
    sizes[4..].copy_from_slice(&size(reply_bytes)?.to_le_bytes());
    Ok(sizes)
}

/// How much is read at once; more than a request has.
const BUFFER_BYTES: usize = 64 * 1024;
/// The listener's place; connections come after it.
const LISTENER: usize = 0;

struct Peer {
    stream: UnixStream,
    request_bytes: usize,
    reply: Vec<u8>,
    /// How many bytes of the next request have come.
    pending: usize,
}

/// Listens, prints [`READY`], and answers until the process is killed.
pub fn echo(plan: &Echo) -> Result<()> {
    let _ = fs::remove_file(&plan.socket);
    let listener =
        UnixListener::bind(&plan.socket).with_context(|| format!("listen at {}", plan.socket.display()))?;
    let mut poll = Poll::new()?;
    poll.add(&listener, LISTENER)?;
    println!("{READY}");
    // The listener's place is taken.
    let mut peers: Vec<Option<Peer>> = vec![None];
    let (mut buffer, mut ready) = (vec![0; BUFFER_BYTES], Vec::new());
    loop {
        ready.extend(poll.wait(Duration::from_hours(1))?);
        for place in ready.drain(..) {
            if place == LISTENER {
                let peer = accept(&listener)?;
                poll.add(&peer.stream, peers.len())?;
                peers.push(Some(peer));
            } else if let Some(peer) = &mut peers[place]
                && peer.serve(&mut buffer)? == Served::End
            {
                peers[place] = None;
            }
        }
    }
}

fn accept(listener: &UnixListener) -> Result<Peer> {
    let (mut stream, _) = listener.accept().context("accept a connection")?;
    let mut sizes = [0; 8];
    stream.read_exact(&mut sizes).context("read the sizes")?;
    stream
        .set_nonblocking(true)
        .context("stop a socket from blocking")?;
    let [q0, q1, q2, q3, a0, a1, a2, a3] = sizes;
    let request_bytes = u32::from_le_bytes([q0, q1, q2, q3]) as usize;
    ensure!(
        (1..BUFFER_BYTES).contains(&request_bytes),
        "a request can't have {request_bytes} bytes"
    );
    Ok(Peer {
        stream,
        request_bytes,
        reply: vec![b'e'; u32::from_le_bytes([a0, a1, a2, a3]) as usize],
        pending: 0,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Served {
    On,
    End,
}

impl Peer {
    fn serve(&mut self, buffer: &mut [u8]) -> Result<Served> {
        match self.stream.read(buffer) {
            Ok(0) => return Ok(Served::End),
            Ok(count) => self.pending += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(Served::End),
            Err(error) => return Err(error).context("read a request"),
        }
        while self.pending >= self.request_bytes {
            self.pending -= self.request_bytes;
            self.stream.write_all(&self.reply).context("write a reply")?;
        }
        Ok(Served::On)
    }
}
