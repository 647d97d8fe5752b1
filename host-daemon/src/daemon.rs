//! All parts of the daemon as one process: made in the order in which they need each other, ended in the reverse.

use std::path::PathBuf;

use moorline_client::{Client, ClientError, Endpoint, Trust};
use moorline_daemon::watchdog;
use moorline_shared::HostId;
use moorline_shared::api::hosts::RegisterHost;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Sockets};
use crate::causes::Causes;
use crate::channel::{VsockError, VsockPort};
use crate::config::{Config, VsockUse};
use crate::credentials::{self, Credentials, Generations};
use crate::identity::HostIdentity;
use crate::identity::files::{self, Files};
use crate::identity::renew::Renewal;
use crate::link::{ShardError, Shards, ShardsHandle};
use crate::parts::Parts;
use crate::persistence;
use crate::uplink::{Reports, Uplink};
use crate::vm::record::{Lock, Records};
use crate::vm::{FileError, Supervisor};

pub use crate::parts::PartError;

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
    kept: persistence::Writer,
    sockets: Sockets,
    supervisor: Supervisor,
    uplink: Uplink,
    credentials: Credentials,
    renewal: Renewal,
    services: admin::Services,
    changes: mpsc::Receiver<crate::uplink::SpecChange>,
    /// Held to the very end: the next daemon begins with what this one has let go of, the guests' port included.
    lock: Lock,
}

/// Why the daemon doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The host has no identity.
    #[error(transparent)]
    Identity(#[from] files::FileError),
    /// The machine is another host than its configuration says.
    #[error(
        "the configuration is of host {configured}, and this machine was enrolled as {enrolled}: correct 'host' in the \
         configuration, or enrol the machine as {configured}"
    )]
    OtherHost {
        /// What the configuration says.
        configured: HostId,
        /// What its certificate says.
        enrolled: HostId,
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

/// Why the daemon ended without having been told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// One of its parts did.
    #[error("a part of the daemon ended")]
    Part(#[from] PartError),
    /// A shard did.
    #[error("the guests of a shard can't be served any more")]
    Shard(#[from] ShardError),
}

impl Daemon {
    /// Binds and starts everything that can fail. Call it within a runtime with I/O and time.
    pub fn open(config: &Config) -> Result<Self, StartError> {
        allow_descriptors();
        let lock = Records::open(&config.state_dir)?.lock()?;
        let (identity, client) = identity(config)?;
        let vsock = open_vsock(config.link.vsock)?;
        let (asks, asked) = mpsc::channel(QUESTIONS);
        let (specs, changes) = mpsc::channel(SPEC_CHANGES);
        let shards = Shards::start(&config.link, &config.cache, vsock, &asks)?;
        let (reports, reported) = Reports::channel();
        let handle = shards.handle();
        let (given, events) = credentials::channel();
        let credentials_folder = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let (kept, restored) = persistence::open(&config.state_dir, credentials_folder.as_deref(), handle);
        let common = Common {
            config,
            identity: &identity,
            client: &client,
            shards: handle,
        };
        let credentials = common.credentials(events)?;
        let supervisor = Supervisor::new(&config.machines(), &config.state_dir, handle.clone(), reports)?;
        let services = common.services(&supervisor, given.clone(), kept.handle())?;
        let renewal = common.renewal();
        let uplink = Uplink {
            host: config.host.clone(),
            offer: offer(config),
            shards: handle.clone(),
            asks: asked,
            reports: reported,
            specs,
            credentials: given,
            kept: (restored, kept.handle()),
            client,
            identity,
            control: config.control.clone(),
        };
        Ok(Self {
            sockets: Sockets::bind(&config.sockets)?.with_metrics(config.metrics)?,
            kept,
            shards,
            supervisor,
            uplink,
            credentials,
            renewal,
            services,
            changes,
            lock,
        })
    }

    /// Serves until it is cancelled; then tells the guests to come again and waits until they have read it, 5 s at
    /// most. VMs run on.
    ///
    /// Fails when a part of the daemon ends before it is cancelled: a panic, or a fault that it can't go on with. The
    /// other parts are ended in good order then, so that the next daemon begins anew with all of them.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), RunError> {
        let mut parts = Parts::new(cancel.clone());
        parts.add("the host's certificate", self.renewal.run(cancel.clone()));
        parts.add_fallible("the uplink", self.uplink.run(cancel.clone()));
        parts.add("the cache on disk", self.kept.run(cancel.clone()));
        parts.add("the credentials", self.credentials.run(cancel.clone()));
        parts.add_fallible(
            "the local sockets",
            self.sockets.serve(self.services, cancel.clone()),
        );
        parts.add_fallible(
            "the supervisor of the VMs",
            self.supervisor.run(self.changes, cancel.clone()),
        );
        let shards = self.shards.handle().clone();
        // A daemon of which one shard only hangs is ended and started again, too. VMs run on.
        let turn = move || all_turn(shards.clone());
        let watchdog = watchdog::run(turn, cancel.clone());
        parts.add("the watchdog", watchdog);
        let lost = self.shards.ended();
        parts.add("the shards", async move {
            cancel.run_until_cancelled(lost).await;
        });
        let ran = parts.run().await;
        // What a shard died of explains what the other parts died of, not the other way round.
        let drained = self.shards.drain(RECONNECT_MS);
        drop(self.lock);
        drained?;
        Ok(ran?)
    }
}

/// Whether every shard's loop turns. It waits for those that hang.
async fn all_turn(shards: ShardsHandle) -> bool {
    shards.all_turn().await.is_ok()
}

/// What several parts are made of.
struct Common<'a> {
    config: &'a Config,
    identity: &'a HostIdentity,
    client: &'a Client,
    shards: &'a ShardsHandle,
}

impl Common<'_> {
    fn credentials(&self, events: credentials::Events) -> Result<Credentials, StartError> {
        Ok(Credentials::new(
            self.config.host.clone(),
            self.client.clone(),
            self.config.roles.clone(),
            self.shards.clone(),
            Generations::open(&self.config.state_dir)?,
            events,
        ))
    }

    fn services(
        &self,
        supervisor: &Supervisor,
        credentials: credentials::Handle,
        cache: persistence::Handle,
    ) -> Result<admin::Services, StartError> {
        Ok(admin::Services {
            host: self.config.host.clone(),
            started_at: crate::link::time().ok_or(StartError::Clock)?,
            shards: self.shards.clone(),
            table: supervisor.table(),
            external: supervisor.external(),
            credentials,
            cache,
            control: self.client.clone(),
            identity: self.identity.clone(),
        })
    }

    fn renewal(&self) -> Renewal {
        Renewal {
            identity: self.identity.clone(),
            host: self.config.host.clone(),
            client: self.client.clone(),
            files: Files::of(&self.config.state_dir),
        }
    }
}

/// By what the host is known, and the control plane's client that shows it.
///
/// # Errors
/// [`StartError`] if the machine is not enrolled, or as another host than the configuration says.
pub fn identity(config: &Config) -> Result<(HostIdentity, Client), StartError> {
    let files = Files::of(&config.state_dir);
    let enrolled = files.url()?;
    let present = files.present()?;
    if *present.host() != config.host {
        return Err(StartError::OtherHost {
            configured: config.host.clone(),
            enrolled: present.host().clone(),
        });
    }
    let url = config.control.url.clone().unwrap_or(enrolled);
    let endpoint = Endpoint::without_token(url)
        .trusting(Trust::Authority(files.authority()?))
        .identified(present.shown());
    let client = Client::new(endpoint)?;
    Ok((HostIdentity::new(present), client))
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
        VsockUse::Auto => match VsockPort::open() {
            Err(error) if error.is_lack() => {
                tracing::info!(error = %Causes(&error), "no guest can come over AF_VSOCK");
                Ok(None)
            }
            opened => opened.map(Some),
        },
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

#[cfg(test)]
mod tests {
    use super::{Daemon, PartError, RunError, identity};
    use crate::causes::Causes;
    use crate::config::Config;
    use std::path::Path;
    use std::time::Duration;
    use tokio::time::timeout;
    use tokio_util::sync::CancellationToken;

    /// A daemon whose control plane is away.
    fn open(folder: &Path) -> Daemon {
        crate::identity::tests::enrolled(&folder.join("state"), "h1");
        Daemon::open(&config(folder)).unwrap()
    }

    /// The configuration of host h1.
    fn config(folder: &Path) -> Config {
        let text = format!(
            "host = 'h1'\nzone = 'z1'\nstate_dir = '{folder}/state'\n\
             [control]\nurl = 'https://127.0.0.1:9'\n\
             [capacity]\nvcpus = 1\nmemory_mib = 64\n\
             [sockets]\nregister = '{folder}/register.sock'\nadmin = '{folder}/admin.sock'\n\
             [link]\nshards = 2\nvsock = 'off'\n",
            folder = folder.display(),
        );
        let file = folder.join("host.toml");
        std::fs::write(&file, text).unwrap();
        Config::read(&file).unwrap()
    }

    #[test]
    fn a_machine_that_is_another_host_by_its_certificate_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        crate::identity::tests::enrolled(&folder.path().join("state"), "h2");
        let error = identity(&config(folder.path())).unwrap_err().to_string();
        assert!(
            error.contains("is of host h1") && error.contains("enrolled as h2"),
            "{error}"
        );
    }

    async fn run(daemon: Daemon, cancel: CancellationToken) -> Result<(), RunError> {
        timeout(Duration::from_secs(30), daemon.run(cancel))
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_daemon_that_is_told_to_end_ends_well() {
        let folder = tempfile::tempdir().unwrap();
        let cancel = CancellationToken::new();
        cancel.cancel();
        run(open(folder.path()), cancel).await.unwrap();
    }

    /// Two would take each other's half-written files for leftovers.
    #[tokio::test]
    async fn a_second_daemon_on_the_same_state_is_refused_and_touches_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(folder.path());
        let half_written = folder.path().join("state/cache/i-0.view.new");
        std::fs::write(&half_written, "half of it").unwrap();
        let error = Daemon::open(&config(folder.path())).map(drop).unwrap_err();
        let shown = Causes(&error).to_string();
        assert!(shown.contains("vms/lock"), "{shown}");
        assert!(half_written.exists());
        let cancel = CancellationToken::new();
        cancel.cancel();
        run(first, cancel.clone()).await.unwrap();
        let next = Daemon::open(&config(folder.path())).unwrap();
        assert!(!half_written.exists());
        run(next, cancel).await.unwrap();
    }

    #[tokio::test]
    async fn a_daemon_that_lost_a_shard_ends_and_says_of_what_it_died() {
        let folder = tempfile::tempdir().unwrap();
        let mut daemon = open(folder.path());
        daemon.shards.spawn(|| panic!("a defect")).unwrap();
        let error = run(daemon, CancellationToken::new()).await.unwrap_err();
        let shown = Causes(&error).to_string();
        assert!(shown.ends_with("shard 2 panicked: a defect"), "{shown}");
    }

    #[tokio::test]
    async fn a_daemon_whose_supervisor_cannot_work_ends_and_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let daemon = open(folder.path());
        std::fs::remove_dir_all(folder.path().join("state/vms")).unwrap();
        let error = run(daemon, CancellationToken::new()).await.unwrap_err();
        assert!(
            matches!(
                error,
                RunError::Part(PartError::Failed {
                    part: "the supervisor of the VMs",
                    ..
                })
            ),
            "{error}"
        );
        let shown = Causes(&error).to_string();
        assert!(shown.contains("can't list") && shown.contains("vms"), "{shown}");
    }
}
