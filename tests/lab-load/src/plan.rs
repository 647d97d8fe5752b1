//! What `lab-load` is told, and what it tells.

use std::net::SocketAddr;
use std::path::PathBuf;

use moorline_shared::{EntryPath, InstanceId};
use serde::{Deserialize, Serialize};

/// The argument for [`crate::drive()`], with a [`Load`].
pub const DRIVE: &str = "drive";
/// The argument for [`crate::changes()`], with [`Changes`].
pub const CHANGES: &str = "changes";
/// The argument for [`crate::hold()`], with a [`Hold`].
pub const HOLD: &str = "hold";
/// The argument for [`crate::echo()`], with an [`Echo`].
pub const ECHO: &str = "echo";
/// The argument for [`crate::attack()`], with an [`Attack`].
pub const ATTACK: &str = "attack";
/// The argument for [`crate::hostile()`], with [`Hostile`].
pub const HOSTILE: &str = "hostile";

/// The line that [`crate::hold()`], [`crate::echo()`] and [`crate::attack()`] print once they do what they are for.
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

/// A guest that is there in its own way until the process is killed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attack {
    /// Its socket.
    pub guest: PathBuf,
    /// Which instance it is.
    pub instance: InstanceId,
    /// What it does.
    pub conduct: Conduct,
    /// Where it has to stay; anywhere if absent.
    pub within: Option<Cell>,
}

/// What a process is confined to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// The core that it runs on.
    pub core: usize,
    /// The file that moves whoever writes to it into a control group.
    pub group: PathBuf,
}

macro_rules! conducts {
    ($($(#[$doc:meta])* $variant:ident $name:literal,)*) => {
        /// What a guest does, over and over. The rows are those of the design's table of what a hostile guest does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Conduct {
            /// It reads an entry now and then, as the honest ones do.
            Polite,
            $($(#[$doc])* $variant,)*
        }

        impl Conduct {
            /// All but the polite one.
            pub const ATTACKS: &'static [Self] = &[$(Self::$variant),*];

            /// What it is called.
            pub const fn name(self) -> &'static str {
                match self {
                    Self::Polite => "polite",
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

conducts! {
    /// Rows 1 and 3: it writes large entries, signed, until there is no room and then on.
    Writes "writes",
    /// Row 5: it asks for what is large and never reads.
    NeverReads "never_reads",
    /// Row 6: it has as many connections as it can, and writes a byte of a frame now and then.
    HalfFrames "half_frames",
    /// Rows 7 and 16: it says what is no frame, each time on another connection.
    BadFrames "bad_frames",
    /// Rows 8 and 10: it begins watches of everything and lets them go.
    Watches "watches",
    /// Rows 10 and 16: it says HELLO with control characters, knows nothing of its past, and leaves at length.
    Hellos "hellos",
    /// Rows 11, 12 and 20: it asks for paths that are none.
    OddPaths "odd_paths",
    /// Row 13: it connects and leaves.
    Connects "connects",
    /// Row 14: it has requests passed on that it didn't sign.
    Relays "relays",
    /// Row 17: it asks for what isn't there, each time something else.
    UnknownThings "unknown_things",
    /// Row 18: it says that its mirror is wrong, whatever it is sent.
    Lies "lies",
    /// Row 18: it asks for pages of everything.
    Lists "lists",
    /// No row: it reads what is large as fast as it can.
    Reads "reads",
    /// Row 22: it begins everything at once and is gone.
    Disappears "disappears",
}

/// How far an attacker came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acts {
    /// How many requests it made, or connections where it makes no requests.
    pub done: u64,
    /// How often the host ended a connection of its, or didn't let it in.
    pub cut: u64,
}

/// Honest guests, and those that are beside them in turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hostile {
    /// The honest guests are its first target. It has as many rounds for each attack, and as many beside the polite guest.
    pub load: Load,
    /// How long each honest guest waits after an answer until it asks again, in microseconds.
    pub pace_us: u64,
    /// The polite guest.
    pub polite: Attack,
    /// The others.
    pub attacks: Vec<Attack>,
}

/// How honest guests fared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stood {
    /// In the order of the plan's attacks.
    pub attacks: Vec<Faced>,
}

/// How they fared beside one attacker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Faced {
    /// What it did.
    pub conduct: Conduct,
    /// The rounds beside the polite guest, each just before the one beside the attacker.
    pub quiet: Vec<Round>,
    /// The rounds beside the attacker.
    pub attacked: Vec<Round>,
    /// By how much the server's memory was larger at its peak in each such round than at that of the first polite one.
    pub grown_bytes: Vec<u64>,
}
