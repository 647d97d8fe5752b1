//! A connection to a server: unix, TCP, or TLS over TCP.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::plan::Place;

/// How long a server may take over what comes before the load.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection.
#[derive(Debug)]
pub(crate) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// What a socket is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    Read,
    Write,
    Either,
}

impl Socket {
    /// Connects, blocking. Reads block until [`Self::stop_blocking`], but not for ever.
    pub(crate) fn connect(place: &Place) -> Result<Self> {
        let failed = || format!("connect to {place:?}");
        let socket = match place {
            Place::Unix(path) => Self::Unix(UnixStream::connect(path).with_context(failed)?),
            Place::Tcp(address) => Self::Tcp(TcpStream::connect(address).with_context(failed)?),
            Place::Tls { address, ca } => Self::Tls(Box::new(secured(*address, ca).with_context(failed)?)),
        };
        socket.be_patient().with_context(failed)?;
        Ok(socket)
    }

    /// Lets the connection be cut off when it is dropped, so that its port is free again at once.
    pub(crate) fn end_abruptly(&self) -> Result<()> {
        rustix::net::sockopt::set_socket_linger(self, Some(Duration::ZERO))
            .context("let a socket end abruptly")
    }

    fn be_patient(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(Some(PATIENCE)),
            Self::Tcp(stream) => be_patient(stream),
            Self::Tls(stream) => be_patient(&stream.sock),
        }
    }

    /// Reads and writes return at once from now on.
    pub(crate) fn stop_blocking(&self) -> Result<()> {
        match self {
            Self::Unix(stream) => stream.set_nonblocking(true),
            Self::Tcp(stream) => stream.set_nonblocking(true),
            Self::Tls(stream) => stream.sock.set_nonblocking(true),
        }
        .context("stop a socket from blocking")
    }

    /// Reads what is there into `buffer`: how many bytes, 0 if there are none now. A connection that has ended is an
    /// error, and so is one that blocks for longer than a server may take.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let read = match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
            // The buffers are larger than any answer, so that nothing that was deciphered is left when the socket is
            // empty.
            Self::Tls(stream) => stream.read(buffer),
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

    /// Writes as much as the socket takes at once: how many bytes, 0 if it takes none now.
    pub(crate) fn send_some(&mut self, bytes: &[u8]) -> Result<usize> {
        let sent = match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        };
        match sent {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
            sent => sent.context("write to the server"),
        }
    }

    /// Waits until the socket is ready, or has ended, or until so much time has passed.
    pub(crate) fn wait(&self, ready: Ready, most: Duration) -> Result<()> {
        let flags = match ready {
            Ready::Read => PollFlags::IN,
            Ready::Write => PollFlags::OUT,
            Ready::Either => PollFlags::IN | PollFlags::OUT,
        };
        let timeout = Timespec::try_from(most).context("wait for that long")?;
        match poll(&mut [PollFd::new(self, flags)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error).context("wait for a socket"),
        }
    }

    /// Writes a request, which a socket takes whole: nothing else is on its way there.
    pub(crate) fn send(&mut self, request: &[u8]) -> Result<()> {
        match self {
            Self::Unix(stream) => stream.write_all(request),
            Self::Tcp(stream) => stream.write_all(request),
            Self::Tls(stream) => stream.write_all(request),
        }
        .context("send a request")
    }
}

fn be_patient(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))
}

/// Greets a server that this authority vouches for.
fn secured(address: SocketAddr, ca: &Path) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let config = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connection = ClientConnection::new(config.into(), address.ip().into())?;
    let mut stream = StreamOwned::new(connection, TcpStream::connect(address)?);
    be_patient(&stream.sock)?;
    // By the time that the load begins nothing of the handshake is left to be done.
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
            Self::Tls(stream) => stream.sock.as_fd(),
        }
    }
}
