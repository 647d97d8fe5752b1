//! Where the service listens, and who comes.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::rc::Rc;

use moorline_shared::link::Moment;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpCongestion;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::token::KeyError;
use crate::access::Peer;
use crate::local::surface::{Arrival, Door};
use crate::mirror::Live;
use crate::platform::{Connection, LoopbackAddress, LoopbackError, Owner, SockDiag, now};

/// How many connections the kernel keeps until they are taken.
const BACKLOG: u32 = 128;
/// Nothing is ever lost or late on the loopback device, so the controller that does least will do. Every kernel has it,
/// and every user may choose it.
const CONGESTION: &str = "reno";
/// How often strangers are told of, in milliseconds.
const TELL_EVERY_MS: u64 = 60_000;
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
    /// Clients can't name such an address.
    #[error("can't serve on {place}: it is no address of one machine; choose another with --imds-listen")]
    Place {
        /// Where.
        place: SocketAddrV4,
    },
    /// The kernel won't tell whose connections are.
    #[error("can't ask the kernel whose connections are (NETLINK_SOCK_DIAG)")]
    Diag(#[source] io::Error),
    /// The kernel can't tell whose connections are.
    #[error(
        "the kernel can't tell whose connections are: load its module tcp_diag, or take one that has it \
         (CONFIG_INET_TCP_DIAG)"
    )]
    NoTcpDiag,
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
    strangers: Strangers,
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
        let ip = place.ip();
        if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() {
            return Err(OpenError::Place { place });
        }
        let address = if ip.is_loopback() {
            None
        } else {
            Some(LoopbackAddress::add(*ip)?)
        };
        let diag = diag()?;
        let socket = bound(place).map_err(|source| OpenError::Bind { place, source })?;
        Ok(Self {
            state: State::Bound(Some(socket)),
            diag,
            mirror,
            strangers: Strangers::default(),
            _address: address,
        })
    }

    /// The listening socket, once there is something to serve. Cancel-safe.
    async fn listening(&mut self) -> io::Result<&TcpListener> {
        if let State::Bound(socket) = &mut self.state {
            self.mirror.until(|mirror| mirror.applied().map(|_| ())).await;
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
    fn peer(&mut self, stream: &TcpStream) -> io::Result<Option<Peer>> {
        let (SocketAddr::V4(client), SocketAddr::V4(server)) = (stream.peer_addr()?, stream.local_addr()?)
        else {
            return Ok(None);
        };
        match self.diag.owner(Connection { client, server })? {
            Owner::Program(user) => Ok(Some(Peer::of(user))),
            Owner::Elsewhere => {
                if let Some(count) = self.strangers.came(now()) {
                    tracing::warn!(count, last = %client, "refused connections from outside this machine to the metadata service");
                }
                Ok(None)
            }
        }
    }
}

/// The way to ask whose connections are, once the kernel has shown that it tells.
fn diag() -> Result<SockDiag, OpenError> {
    let diag = SockDiag::open().map_err(OpenError::Diag)?;
    match diag.check() {
        Ok(()) => Ok(diag),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Err(OpenError::NoTcpDiag),
        Err(error) => Err(OpenError::Diag(error)),
    }
}

/// Connections from outside this machine: whoever makes them, or a user who makes it look so, must not fill the log.
#[derive(Debug, Default)]
struct Strangers {
    /// Those that were not told of.
    untold: u64,
    told: Option<Moment>,
}

impl Strangers {
    /// One more came. Returns how many there are to tell of, if it is time for that.
    fn came(&mut self, now: Moment) -> Option<u64> {
        self.untold += 1;
        if self.told.is_some_and(|told| now.since(told) < TELL_EVERY_MS) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
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
                // Mostly it is gone already, and any program can make that happen as often as it likes.
                tracing::debug!(%error, "can't tell whose a connection to the metadata service is; it is refused");
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

#[cfg(test)]
mod tests {
    use super::{Moment, Strangers, TELL_EVERY_MS};

    #[test]
    fn strangers_are_told_of_once_a_minute() {
        let mut strangers = Strangers::default();
        let told: Vec<u64> = (0..3 * TELL_EVERY_MS)
            .step_by(100)
            .filter_map(|ms| strangers.came(Moment(ms)))
            .collect();
        assert_eq!(told, [1, 600, 600]);
    }
}
