//! What `lab-load` is told, and what it tells.

use std::net::SocketAddr;
use std::path::PathBuf;

use moorline_shared::EntryPath;
use serde::{Deserialize, Serialize};

/// The argument for [`crate::drive()`], with a [`Load`].
pub const DRIVE: &str = "drive";
/// The argument for [`crate::changes()`], with [`Changes`].
pub const CHANGES: &str = "changes";
/// The argument for [`crate::hold()`], with a [`Hold`].
pub const HOLD: &str = "hold";
/// The argument for [`crate::echo()`], with an [`Echo`].
pub const ECHO: &str = "echo";

/// The line that [`crate::hold()`] and [`crate::echo()`] print once they do what they are for.
pub const READY: &str = "ready";

/// Servers to be put under load in turn, round by round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// How often each server has its turn.
    pub rounds: u32,
    /// For how long a turn's load runs before it counts, in milliseconds.
    pub warm_up_ms: u64,
    /// For how long it counts, in milliseconds.
    pub measure_ms: u64,
    /// The servers. An echo comes after the one whose sizes it takes.
    pub targets: Vec<Target>,
}

/// A server, and the connections to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// What it is called in the outcome.
    pub name: String,
    /// The core on which the load runs.
    pub core: usize,
    /// The process whose processor time is told.
    pub server: u32,
    /// What is said to it.
    pub speaks: Speaks,
    /// Where each connection goes.
    pub connections: Vec<Place>,
}

/// What is said to a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speaks {
    /// As many bytes as go to the target of this name, for as many as come from there.
    Echo {
        /// That target.
        like: String,
    },
    /// GET frames on the guest link.
    Link {
        /// The entry.
        path: EntryPath,
    },
    /// The redis protocol: each connection sets a key of its own and then gets it.
    Redis {
        /// How long the value is, in bytes.
        length: usize,
    },
    /// Requests of HTTP/1.1; each connection has its own list and sends it again and again.
    Http {
        /// The lists, in the order of the connections; the last one serves those that are left.
        requests: Vec<Vec<String>>,
    },
    /// One request of HTTP/1.1 on each connection, which is then cut off and followed by another.
    HttpAnew {
        /// The request.
        request: String,
    },
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// A unix socket.
    Unix(PathBuf),
    /// An address of this machine.
    Tcp(SocketAddr),
    /// An address of this machine where TLS is spoken.
    Tls {
        /// The address.
        address: SocketAddr,
        /// The file with the certificate of who vouches for the server.
        ca: PathBuf,
    },
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// In the order of the load's targets.
    pub targets: Vec<MeasuredTarget>,
}

impl Measured {
    /// The rounds of the target with this name.
    pub fn of(&self, name: &str) -> Option<&[Round]> {
        let found = self.targets.iter().find(|target| target.name == name);
        found.map(|target| target.rounds.as_slice())
    }
}

/// What was measured of a target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasuredTarget {
    /// The target's name.
    pub name: String,
    /// How many bytes a request has: the first of the first connection.
    pub request_bytes: usize,
    /// How many bytes its reply has.
    pub reply_bytes: usize,
    /// Its turns.
    pub rounds: Vec<Round>,
}

/// One turn of a target.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// How many replies came while it counted.
    pub replies: u64,
    /// For how long it counted.
    pub seconds: f64,
    /// How much processor time the server's process took meanwhile, in seconds.
    pub server_seconds: f64,
    /// The median time between a request and its reply, in microseconds.
    pub p50_us: f64,
    /// That of the slowest hundredth.
    pub p99_us: f64,
}

impl Round {
    /// Replies per second.
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
    pub fn rate(&self) -> f64 {
        self.replies as f64 / self.seconds
    }

    /// The server's processor time per reply, in microseconds.
    #[expect(clippy::cast_precision_loss, reason = "a share needs no 53 bits")]
    pub fn server_us(&self) -> f64 {
        self.server_seconds * 1e6 / self.replies.max(1) as f64
    }
}

/// Changes to be made one by one, each waited for in the agent's watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// How many.
    pub count: u32,
    /// The core on which this runs.
    pub core: usize,
    /// The control plane.
    pub control: Place,
    /// The token to show there.
    pub token: String,
    /// The target of the change's request: an entry of the guest.
    pub entry: String,
    /// The target of the request for a bare commit: an entry of an instance that nobody follows.
    pub bare: String,
    /// The agent's socket.
    pub agent: PathBuf,
    /// The request that begins the watch there.
    pub watch: String,
}

/// How long changes took. One bare commit comes before each change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// From a bare commit's request to its reply, in milliseconds.
    pub bare_ms: Vec<f64>,
    /// From a change's request to its reply, in milliseconds.
    pub reply_ms: Vec<f64>,
    /// From a change's request to its line in the watch, in milliseconds.
    pub guest_ms: Vec<f64>,
}

/// Connections of guests that do nothing, to be kept open until the end of the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Their sockets.
    pub guests: Vec<PathBuf>,
}

/// A server that answers so many bytes with so many bytes; the sizes come with the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// Where it listens.
    pub socket: PathBuf,
}
