//! A unix socket that speaks HTTP, with bounds on everything that a caller can use up.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Extension};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::fs::{self, AtFlags, CWD, Gid, Mode};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::vm::external::Caller;

/// Connections of one socket at once; further ones wait in its queue.
const MAX_CONNECTIONS: usize = 32;
const BACKLOG: i32 = 16;
/// For the head of a request, whole.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// For a connection as a whole: a registration may have to wait for the control plane.
const CONNECTION_PATIENCE: Duration = Duration::from_mins(2);
/// For what is under way when the daemon ends.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);
/// After an accept that failed, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// An instance's first entries have at most 1 MiB; as JSON they may take several times that.
const MAX_BODY: usize = 8 << 20;

/// Who may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// The daemon's user, and root.
    Owner,
    /// This group as well.
    Group(String),
}

/// Why a socket can't be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The file system or the kernel refuses.
    #[error("can't {step} {}", path.display())]
    System {
        /// What was to be done.
        step: &'static str,
        /// With which socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another daemon is there.
    #[error("somebody answers at {} already: is another moorline-host running?", path.display())]
    InUse {
        /// Which socket.
        path: PathBuf,
    },
    /// It is not a leftover of a daemon.
    #[error("{} is there and is no socket: move it away, or choose another path in the table [sockets]", path.display())]
    InTheWay {
        /// What is there.
        path: PathBuf,
    },
    /// The port for metrics can't be had.
    #[error("metrics {address}: it can't be had; is another process listening there?")]
    Port {
        /// Its address.
        address: std::net::SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// No such group.
    #[error("sockets.register_group is '{0}', and this host has no such group")]
    NoGroup(String),
}

/// A bound socket. Dropping it leaves its name, which the next daemon replaces.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    pub(super) fn bind(path: &Path, access: &Access) -> Result<Self, BindError> {
        let failed = |step| {
            move |error: Errno| BindError::System {
                step,
                path: path.to_owned(),
                source: error.into(),
            }
        };
        let group = match access {
            Access::Owner => None,
            Access::Group(name) => Some(group_id(name)?),
        };
        make_way(path)?;
        let socket = bind_for(path, group).map_err(failed("bind"))?;
        let listener = std::os::unix::net::UnixListener::from(socket);
        let listener = UnixListener::from_std(listener).map_err(|source| BindError::System {
            step: "wait for connections at",
            path: path.to_owned(),
            source,
        })?;
        let path = path.to_owned();
        Ok(Self { listener, path })
    }

    /// Answers until cancelled.
    pub(super) async fn serve(self, routes: Router, cancel: CancellationToken) {
        let routes = routes.layer(DefaultBodyLimit::max(MAX_BODY));
        let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            // Cancel-safe: a connection that wasn't accepted stays in the queue, and a seat that wasn't taken is free.
            tokio::select! {
                () = cancel.cancelled() => break,
                (stream, seat) = self.next(&seats) => {
                    connections.spawn(converse(stream, seat, routes.clone(), cancel.clone()));
                }
                Some(_) = connections.join_next() => (),
            }
        }
        let drained = async { while connections.join_next().await.is_some() {} };
        if timeout(DRAIN_PATIENCE, drained).await.is_err() {
            tracing::warn!(socket = %self.path.display(), "cutting off callers that still wait for an answer");
        }
    }

    /// The next connection and its seat.
    async fn next(&self, seats: &Arc<Semaphore>) -> (UnixStream, OwnedSemaphorePermit) {
        loop {
            // Taken first, so that no connection is accepted that can't be served. It is never closed.
            let seat = Arc::clone(seats).acquire_owned().await;
            match (self.listener.accept().await, seat) {
                (Ok((stream, _)), Ok(seat)) => return (stream, seat),
                (Err(error), _) => {
                    tracing::warn!(socket = %self.path.display(), %error, "can't accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
                (Ok(_), Err(_)) => (),
            }
        }
    }
}

/// One connection, to its end.
async fn converse(
    stream: UnixStream,
    _seat: OwnedSemaphorePermit,
    routes: Router,
    cancel: CancellationToken,
) {
    let Ok(peer) = stream.peer_cred() else {
        return;
    };
    let caller = Caller { uid: peer.uid() };
    let service = TowerToHyperService::new(routes.layer(Extension(caller)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // Cancel-safe: the connection is polled on until it ends or its time is over.
    let ended = timeout(CONNECTION_PATIENCE, async {
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = cancel.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    });
    if let Ok(Err(error)) = ended.await {
        tracing::debug!(uid = caller.uid, %error, "a caller's connection ended early");
    }
}

/// Makes the folder where it is missing, and removes a socket on which nobody answers.
fn make_way(path: &Path) -> Result<(), BindError> {
    let failed = |step| {
        move |source| BindError::System {
            step,
            path: path.to_owned(),
            source,
        }
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
    }
    // A file that is no socket refuses connections as a socket does on which nobody listens.
    let other = path
        .symlink_metadata()
        .is_ok_and(|file| !file.file_type().is_socket());
    if other {
        let path = path.to_owned();
        return Err(BindError::InTheWay { path });
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse {
            path: path.to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed("remove the old"))
        }
        Err(error) => Err(failed("look at the old")(error)),
    }
}

/// Nobody can connect before owner and mode are right, because the socket listens only then.
fn bind_for(path: &Path, group: Option<u32>) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    let owner = Mode::RUSR | Mode::WUSR;
    let mode = match group {
        None => owner,
        Some(group) => {
            let group = Some(Gid::from_raw(group));
            fs::chownat(CWD, path, None, group, AtFlags::SYMLINK_NOFOLLOW)?;
            owner | Mode::RGRP | Mode::WGRP
        }
    };
    fs::chmodat(CWD, path, mode, AtFlags::empty())?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// A group by its name or its number.
fn group_id(name: &str) -> Result<u32, BindError> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let found = nix::unistd::Group::from_name(name).ok().flatten();
    let group = found.ok_or_else(|| BindError::NoGroup(name.to_owned()))?;
    Ok(group.gid.as_raw())
}
