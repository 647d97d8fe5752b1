//! A connection to a server, unix or TCP.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::plan::Place;

/// How long a server may take over what comes before the load.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection.
#[derive(Debug)]
pub(crate) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    /// Connects, blocking. Reads block until [`Self::stop_blocking`], but not for ever.
    pub(crate) fn connect(place: &Place) -> Result<Self> {
        let failed = || format!("connect to {place:?}");
        let socket = match place {
            Place::Unix(path) => Self::Unix(UnixStream::connect(path).with_context(failed)?),
            Place::Tcp(address) => Self::Tcp(TcpStream::connect(address).with_context(failed)?),
        };
        socket.be_patient().with_context(failed)?;
        Ok(socket)
    }

    fn be_patient(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(Some(PATIENCE)),
            Self::Tcp(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))
            }
        }
    }

    /// Reads and writes return at once from now on.
    pub(crate) fn stop_blocking(&self) -> Result<()> {
        match self {
            Self::Unix(stream) => stream.set_nonblocking(true),
            Self::Tcp(stream) => stream.set_nonblocking(true),
        }
        .context("stop a socket from blocking")
    }

    /// Reads what is there into `buffer`: how many bytes, 0 if there are none now. A connection that has ended is an
    /// error, and so is one that blocks for longer than a server may take.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let read = match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        };
        match read {
            Ok(0) => bail!("the server hung up"),
            Ok(count) => Ok(count),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
            Err(error) if error.kind() == ErrorKind::WouldBlock && self.blocks() => {
                bail!("the server didn't answer within {} s", PATIENCE.as_secs())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error).context("read from the server"),
        }
    }

    fn blocks(&self) -> bool {
        let flags = rustix::fs::fcntl_getfl(self.as_fd());
        !flags.is_ok_and(|flags| flags.contains(rustix::fs::OFlags::NONBLOCK))
    }

    /// Writes a request, which a socket takes whole: nothing else is on its way there.
    pub(crate) fn send(&mut self, request: &[u8]) -> Result<()> {
        match self {
            Self::Unix(stream) => stream.write_all(request),
            Self::Tcp(stream) => stream.write_all(request),
        }
        .context("send a request")
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}
