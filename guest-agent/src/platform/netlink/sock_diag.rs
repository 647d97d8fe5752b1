//! Whose a TCP connection is: one exact look-up of the client's socket among this network namespace's.
//!
//! `/proc/net/tcp` won't do: it lists sockets that nobody owns any more as user 0's, so that a client that sends and
//! closes would be taken for root.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::SockProtocol;

use super::{Answer, Netlink, Request, u32_at};
use crate::access::User;

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `TCP_ESTABLISHED`.
const ESTABLISHED: u8 = 1;
/// The lengths of a socket's id, and of what the kernel says of a socket.
const ID: usize = 48;
const SOCKET: usize = 72;

/// A TCP connection as its client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The client's end.
    pub client: SocketAddrV4,
    /// The end it connected to.
    pub server: SocketAddrV4,
}

/// Whose the client's end of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A program of this network namespace.
    Program(User),
    /// No socket of this network namespace is that end: the client is somewhere else.
    Elsewhere,
}

/// The way to ask.
#[derive(Debug)]
pub struct SockDiag(Netlink);

impl SockDiag {
    /// Opens it. Needs no privilege.
    pub fn open() -> io::Result<Self> {
        Netlink::open(SockProtocol::NetlinkSockDiag).map(Self)
    }

    /// Whether the kernel tells of TCP sockets at all. Of one that isn't there it says the same as of a protocol that it
    /// can tell nothing of, so it is asked for one that is there.
    ///
    /// Fails with [`io::ErrorKind::Unsupported`] if it tells of none.
    pub fn check(&self) -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let SocketAddr::V4(there) = listener.local_addr()? else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let connection = Connection {
            client: there,
            server: there,
        };
        self.ask(connection, |answer| is_told(&answer))
    }

    /// Whose the client's end is: one question, answered at once.
    pub fn owner(&self, connection: Connection) -> io::Result<Owner> {
        self.ask(connection, |answer| owner(&answer, connection))
    }

    fn ask<T>(
        &self,
        connection: Connection,
        take: impl FnOnce(Answer<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let request = Request {
            kind: BY_FAMILY,
            flags: REQUEST,
            body: &question(connection),
        };
        self.0.ask(&request, take)?
    }
}

/// Whether the kernel told something of a socket that is there.
fn is_told(answer: &Answer<'_>) -> io::Result<()> {
    match answer {
        Answer::Failed(Errno::ENOENT) => Err(io::ErrorKind::Unsupported.into()),
        Answer::Failed(error) => Err((*error).into()),
        Answer::Done | Answer::Message { .. } => Ok(()),
    }
}

/// `struct inet_diag_req_v2` for exactly the client's socket.
fn question(connection: Connection) -> [u8; 8 + ID] {
    let mut body = [0; 8 + ID];
    body[0] = family(libc::AF_INET);
    body[1] = family(libc::IPPROTO_TCP);
    // In whatever state the socket is: what it means is decided here.
    body[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    let id = &mut body[8..];
    id[..2].copy_from_slice(&connection.client.port().to_be_bytes());
    id[2..4].copy_from_slice(&connection.server.port().to_be_bytes());
    id[4..8].copy_from_slice(&connection.client.ip().octets());
    id[20..24].copy_from_slice(&connection.server.ip().octets());
    // No cookie: whatever socket it is.
    id[40..].fill(0xff);
    body
}

fn family(number: libc::c_int) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

/// What the kernel's answer says. Only an established socket that a process holds has a user; the kernel gives all
/// others as user 0.
fn owner(answer: &Answer<'_>, connection: Connection) -> io::Result<Owner> {
    match answer {
        Answer::Failed(Errno::ENOENT) => Ok(Owner::Elsewhere),
        Answer::Failed(error) => Err((*error).into()),
        Answer::Message {
            kind: BY_FAMILY,
            body,
        } => {
            let found = Found::read(body).ok_or_else(|| odd("the kernel's answer is cut off"))?;
            // Where no connection fits, the kernel offers a listening socket.
            if found.connection != Some(connection) {
                return Ok(Owner::Elsewhere);
            }
            let held = found.state == ESTABLISHED && found.inode != 0;
            let user = if held {
                User::Known(found.user)
            } else {
                User::Nobody
            };
            Ok(Owner::Program(user))
        }
        Answer::Done | Answer::Message { .. } => Err(odd("the kernel answers something else")),
    }
}

fn odd(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// `struct inet_diag_msg`, as far as it is of use.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    state: u8,
    connection: Option<Connection>,
    user: u32,
    inode: u32,
}

impl Found {
    fn read(body: &[u8]) -> Option<Self> {
        let body = body.get(..SOCKET)?;
        let (client, server) = (address(body, 4, 8), address(body, 6, 24));
        Some(Self {
            state: body[1],
            connection: client
                .zip(server)
                .map(|(client, server)| Connection { client, server }),
            user: u32_at(body, 64)?,
            inode: u32_at(body, 68)?,
        })
    }
}

/// The address in a socket's id; none if it isn't one of IPv4. A socket of IPv6 that speaks IPv4 has it behind a prefix.
fn address(body: &[u8], port: usize, ip: usize) -> Option<SocketAddrV4> {
    let port = u16::from_be_bytes(body.get(port..port + 2)?.try_into().ok()?);
    let bytes: [u8; 16] = body.get(ip..ip + 16)?.try_into().ok()?;
    let ip = if i32::from(body[0]) == libc::AF_INET {
        Some(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
    } else {
        std::net::Ipv6Addr::from(bytes).to_ipv4_mapped()
    };
    ip.map(|ip| SocketAddrV4::new(ip, port))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Shutdown, TcpStream};
    use std::os::unix::fs::MetadataExt as _;

    use proptest::prelude::*;

    use super::*;

    fn connection() -> impl Strategy<Value = Connection> {
        let end =
            || (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| SocketAddrV4::new(ip.into(), port));
        (end(), end()).prop_map(|(client, server)| Connection { client, server })
    }

    /// What a kernel says of a socket with this id.
    fn said(connection: Connection, mapped: bool, state: u8, user: u32, inode: u32) -> Vec<u8> {
        let mut body = vec![0; SOCKET];
        body[1] = state;
        let id = &question(connection)[8..];
        body[4..4 + ID].copy_from_slice(id);
        body[0] = family(libc::AF_INET);
        if mapped {
            body[0] = family(libc::AF_INET6);
            for (at, end) in [(8, connection.client), (24, connection.server)] {
                body[at..at + 16].copy_from_slice(&end.ip().to_ipv6_mapped().octets());
            }
        }
        body[64..68].copy_from_slice(&user.to_ne_bytes());
        body[68..72].copy_from_slice(&inode.to_ne_bytes());
        body
    }

    proptest! {
        #[test]
        fn only_an_established_socket_with_an_inode_has_a_user(
            connection in connection(), mapped: bool, state in 0_u8..13, user: u32, inode in 0_u32..3,
        ) {
            let body = said(connection, mapped, state, user, inode);
            let answer = Answer::Message { kind: BY_FAMILY, body: &body };
            let expected = if state == ESTABLISHED && inode != 0 { User::Known(user) } else { User::Nobody };
            prop_assert_eq!(owner(&answer, connection).unwrap(), Owner::Program(expected));
        }

        #[test]
        fn another_socket_is_not_the_one_asked_for(asked in connection(), found in connection(), mapped: bool) {
            prop_assume!(asked != found);
            let body = said(found, mapped, ESTABLISHED, 0, 1);
            let answer = Answer::Message { kind: BY_FAMILY, body: &body };
            prop_assert_eq!(owner(&answer, asked).unwrap(), Owner::Elsewhere);
        }

        #[test]
        fn any_answer_is_read_without_harm(kind: u16, body: Vec<u8>, connection in connection()) {
            let _ = owner(&Answer::Message { kind, body: &body }, connection);
            let of_family = owner(&Answer::Message { kind: BY_FAMILY, body: &body }, connection);
            prop_assert!(body.len() >= SOCKET || of_family.is_err());
        }
    }

    fn pair() -> (TcpStream, TcpStream, Connection) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let v4 = |address| match address {
            SocketAddr::V4(address) => address,
            SocketAddr::V6(address) => panic!("{address}"),
        };
        let connection = Connection {
            client: v4(server.peer_addr().unwrap()),
            server: v4(server.local_addr().unwrap()),
        };
        (client, server, connection)
    }

    #[test]
    fn a_connection_is_its_users_until_it_closes() {
        let diag = SockDiag::open().unwrap();
        let (mut client, mut server, connection) = pair();
        let own = std::fs::metadata("/proc/self").unwrap().uid();
        assert_eq!(diag.owner(connection).unwrap(), Owner::Program(User::Known(own)));
        client.write_all(b"x").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        server.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(
            diag.owner(connection).unwrap(),
            Owner::Program(User::Nobody),
            "half closed"
        );
        drop(client);
        assert_ne!(
            diag.owner(connection).unwrap(),
            Owner::Program(User::Known(0)),
            "closed"
        );
    }

    #[test]
    fn who_sends_and_closes_is_not_root() {
        let diag = SockDiag::open().unwrap();
        let (mut client, _server, connection) = pair();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        drop(client);
        let owner = diag.owner(connection).unwrap();
        assert!(
            matches!(owner, Owner::Program(User::Nobody) | Owner::Elsewhere),
            "{owner:?}"
        );
    }

    #[test]
    fn a_kernel_that_tells_of_no_connection_is_known() {
        SockDiag::open().unwrap().check().unwrap();
        let silent = is_told(&Answer::Failed(Errno::ENOENT)).unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::Unsupported);
        assert!(is_told(&Answer::Failed(Errno::EINVAL)).is_err());
    }

    #[test]
    fn a_listening_socket_is_nobodys_end() {
        let diag = SockDiag::open().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(client) = listener.local_addr().unwrap() else {
            panic!("bound to IPv4")
        };
        let server = "127.0.0.1:9".parse().unwrap();
        assert_eq!(
            diag.owner(Connection { client, server }).unwrap(),
            Owner::Elsewhere
        );
    }
}
