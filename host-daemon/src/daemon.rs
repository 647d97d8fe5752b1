//! All parts of the daemon as one process: made in the order in which they need each other, ended in the reverse.

use std::path::PathBuf;

use moorline_client::{Client, ClientError, Endpoint, Token, TokenError};
use moorline_shared::api::hosts::RegisterHost;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Sockets};
use crate::channel::{VsockError, VsockPort};
use crate::config::{Config, VsockUse};
use crate::link::Shards;
use crate::uplink::{Reports, Uplink};
use crate::vm::{FileError, Supervisor};

/// How many questions of shards may wait for the uplink. Each guest's share is bounded by its own limits.
const QUESTIONS: usize = 1_024;
/// How many changes may wait for the supervisor; the feed waits for it, never a shard.
const SPEC_CHANGES: usize = 1_024;
/// When guests dial again that are told that the daemon ends, in milliseconds: it may be back by then.
const RECONNECT_MS: u32 = 1_000;

/// The daemon, its sockets bound and its shards running. Guests come when [`Self::run`] has begun their channels.
#[derive(Debug)]
pub struct Daemon {
    shards: Shards,
    sockets: Sockets,
    supervisor: Supervisor,
    uplink: Uplink,
    desk: admin::Desk,
    changes: mpsc::Receiver<crate::uplink::SpecChange>,
}

/// Why the daemon doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The host's token can't be read.
    #[error("the host has no token for the control plane: write it to {}, which control.token_file names", path.display())]
    Token {
        /// The file that should hold it.
        path: PathBuf,
        /// What is wrong.
        source: TokenError,
    },
    /// The HTTP library can't be set up.
    #[error("the control plane can't be called")]
    Client(#[from] ClientError),
    /// Guests can't come over `AF_VSOCK`, and should.
    #[error(transparent)]
    Vsock(#[from] VsockError),
    /// The shards' threads can't be started.
    #[error(transparent)]
    Shards(#[from] crate::link::StartError),
    /// The records of the VMs can't be opened.
    #[error("the records of the VMs can't be opened")]
    Records(#[from] FileError),
    /// A local socket can't be bound.
    #[error("a local socket can't be bound")]
    Socket(#[from] admin::BindError),
    /// The system's clock is beyond the year 9999.
    #[error("the system's clock is out of range")]
    Clock,
}

impl Daemon {
    /// Binds and starts everything that can fail. Call it within a runtime with I/O and time.
    pub fn open(config: &Config) -> Result<Self, StartError> {
        allow_descriptors();
        let endpoint = Endpoint::new(config.control.url.clone(), token(config)?).of_host(config.host.clone());
        let client = Client::new(endpoint)?;
        let vsock = open_vsock(config.link.vsock)?;
        let (asks, asked) = mpsc::channel(QUESTIONS);
        let (specs, changes) = mpsc::channel(SPEC_CHANGES);
        let shards = Shards::start(&config.link, &config.cache, vsock, &asks)?;
        let (reports, reported) = Reports::channel();
        let handle = shards.handle();
        let supervisor = Supervisor::new(&config.machines(), &config.state_dir, handle.clone(), reports)?;
        let desk = admin::Desk {
            host: config.host.clone(),
            started_at: crate::link::time().ok_or(StartError::Clock)?,
            shards: handle.clone(),
            table: supervisor.table(),
            external: supervisor.external(),
            control: client.clone(),
        };
        let uplink = Uplink {
            client,
            host: config.host.clone(),
            offer: offer(config),
            shards: handle.clone(),
            asks: asked,
            reports: reported,
            specs,
        };
        Ok(Self {
            sockets: Sockets::bind(&config.sockets)?,
            shards,
            supervisor,
            uplink,
            desk,
            changes,
        })
    }

    /// Serves until it is cancelled; then tells the guests to come again and waits until they have read it, 5 s at
    /// most. VMs run on.
    pub async fn run(self, cancel: CancellationToken) {
        let mut parts = JoinSet::new();
        parts.spawn(self.uplink.run(cancel.clone()));
        parts.spawn(self.sockets.serve(self.desk, cancel.clone()));
        let supervising = self.supervisor.run(self.changes, cancel.clone());
        parts.spawn(async move {
            if let Err(error) = supervising.await {
                tracing::error!(%error, "the supervisor of the VMs has ended");
            }
        });
        while let Some(ended) = parts.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a part of the daemon panicked");
                cancel.cancel();
            }
        }
        self.shards.drain(RECONNECT_MS);
    }
}

/// The host's token for the control plane.
pub fn token(config: &Config) -> Result<Token, StartError> {
    let path = &config.control.token_file;
    Token::read(path).map_err(|source| StartError::Token {
        path: path.clone(),
        source,
    })
}

/// Each guest takes two descriptors, and the system's first allowance is for a thousand.
fn allow_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the number of descriptors stays as it is");
    }
}

fn open_vsock(wanted: VsockUse) -> Result<Option<VsockPort>, VsockError> {
    match wanted {
        VsockUse::Off => Ok(None),
        VsockUse::On => VsockPort::open().map(Some),
        VsockUse::Auto => Ok(VsockPort::open()
            .inspect_err(|error| tracing::info!(%error, "no guest can come over AF_VSOCK"))
            .ok()),
    }
}

fn offer(config: &Config) -> RegisterHost {
    RegisterHost {
        zone: config.zone.clone(),
        vcpus: config.capacity.vcpus,
        memory_mib: config.capacity.memory_mib,
        images: config.images.keys().cloned().collect(),
    }
}
