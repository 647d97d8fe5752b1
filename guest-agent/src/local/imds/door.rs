//! Where the service listens, and who comes.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::rc::Rc;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpCongestion;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::token::KeyError;
use crate::access::Peer;
use crate::local::surface::{Arrival, Door};
use crate::mirror::Live;
use crate::platform::{Connection, LoopbackAddress, LoopbackError, Owner, SockDiag};

/// How many connections the kernel keeps until they are taken.
const BACKLOG: u32 = 128;
/// Nothing is ever lost or late on the loopback device, so the controller that does least will do. Every kernel has it,
/// and every user may choose it.
const CONGESTION: &str = "reno";
/// Packets of the service go no further than this machine, whatever routes there are.
const HOPS: u32 = 1;

/// The service can't be opened.
#[derive(Debug, thiserror::Error)]
pub(in crate::local) enum OpenError {
    /// Its address can't be had.
    #[error(transparent)]
    Address(#[from] LoopbackError),
    /// It can't be bound.
    #[error("can't bind {place}; stop what listens there, or choose another place with --imds-listen")]
    Bind {
        /// Where.
        place: SocketAddrV4,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel won't tell whose connections are.
    #[error("can't ask the kernel whose connections are (NETLINK_SOCK_DIAG)")]
    Diag(#[source] io::Error),
    /// There is no key for tokens.
    #[error("can't make the key for tokens")]
    Key(#[source] KeyError),
}

/// The bound address. It refuses connections until the first data are there: a client that is refused comes back, and
/// one that hears of an error doesn't.
#[derive(Debug)]
pub(in crate::local) struct Gate {
    state: State,
    diag: SockDiag,
    mirror: Rc<Live>,
    /// On the machine for as long as this lives.
    _address: Option<LoopbackAddress>,
}

#[derive(Debug)]
enum State {
    Bound(Option<TcpSocket>),
    Listening(TcpListener),
}

impl Gate {
    pub(super) fn bind(place: SocketAddrV4, mirror: Rc<Live>) -> Result<Self, OpenError> {
        let diag = SockDiag::open().map_err(OpenError::Diag)?;
        let address = if place.ip().is_loopback() {
            None
        } else {
            Some(LoopbackAddress::add(*place.ip())?)
        };
        let socket = bound(place).map_err(|source| OpenError::Bind { place, source })?;
        Ok(Self {
            state: State::Bound(Some(socket)),
            diag,
            mirror,
            _address: address,
        })
    }

    /// The listening socket, once there is something to serve. Cancel-safe.
    async fn listening(&mut self) -> io::Result<&TcpListener> {
        if let State::Bound(socket) = &mut self.state {
            self.mirror.until(|mirror| mirror.revision().map(|_| ())).await;
            let socket = socket.take().ok_or(io::ErrorKind::NotConnected)?;
            let listener = socket.listen(BACKLOG)?;
            listener.set_ttl(HOPS)?;
            tracing::info!(place = ?listener.local_addr().ok(), "the metadata service is open");
            self.state = State::Listening(listener);
        }
        match &self.state {
            State::Listening(listener) => Ok(listener),
            State::Bound(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Whose connection it is.
    fn peer(&self, stream: &TcpStream) -> io::Result<Option<Peer>> {
        let (SocketAddr::V4(client), SocketAddr::V4(server)) = (stream.peer_addr()?, stream.local_addr()?)
        else {
            return Ok(None);
        };
        match self.diag.owner(Connection { client, server })? {
            Owner::Program(user) => Ok(Some(Peer::of(user))),
            Owner::Elsewhere => {
                tracing::warn!(%client, "refused a connection from outside this machine to the metadata service");
                Ok(None)
            }
        }
    }
}

fn bound(place: SocketAddrV4) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    // A kernel that won't is slower by a little and serves all the same.
    let _ = setsockopt(&socket, TcpCongestion, &CONGESTION.into());
    socket.bind(place.into())?;
    Ok(socket)
}

impl Door for Gate {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<Arrival<TcpStream>> {
        let (stream, _) = self.listening().await?.accept().await?;
        stream.set_nodelay(true)?;
        // One that can't be told from a stranger is one.
        match self.peer(&stream) {
            Ok(Some(peer)) => Ok(Arrival::Program(stream, peer)),
            Ok(None) => Ok(Arrival::Stranger),
            Err(error) => {
                tracing::warn!(%error, "can't tell whose a connection to the metadata service is; it is refused");
                Ok(Arrival::Stranger)
            }
        }
    }

    fn turn_away(&self, stream: TcpStream) {
        // A status would be taken for the answer; who is hung up on comes back.
        drop(stream);
    }

    fn close(self) {}
}
