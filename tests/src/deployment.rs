//! A whole deployment in a folder of its own: a control plane and a host daemon as processes, and the guests that the
//! host daemon starts or that a test registers.
//!
//! A [`Plan`] says what there is to be and starts it. Both daemons ([`Programs`]) are built as cargo builds them for
//! their own tests, listen on sockets that nobody else uses, and die with the lab. Either can be killed and started
//! again, and the [`ControlPlane`] frozen. A [`Further`] host is beside the one that every deployment has. VMs outlive
//! their daemon by design, so dropping a deployment finds and ends them, those too that were only beginning. An
//! [`External`] guest has no VM at all. [`OneHost`] is a deployment of `moorline up` instead.

mod control_plane;
pub(crate) mod enrolment;
mod external;
mod further;
mod machines;
mod one_host;
mod plan;
mod programs;

pub use control_plane::{ControlPlane, free_port};
pub use external::External;
use external::register_at;
pub use further::Further;
pub use one_host::OneHost;
pub use plan::{Plan, STOP};
pub use programs::Programs;

use crate::guest::{Control, Seats};
use crate::image::Image;
use crate::process::Running;
use crate::setup::Tools;
use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use moorline_client::{Client, fresh_key};
use moorline_shared::api::instances::{Instance, InstanceIds, InstanceQuery, InstanceState, RunInstances};
use moorline_shared::host::CacheStatus;
use moorline_shared::{HostId, InstanceId, Revision};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use tempfile::TempDir;

/// How long anything here may take on a machine that builds meanwhile.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The name of the image that every instance boots.
pub const IMAGE: &str = "busybox";

/// A control plane and a host, running.
#[derive(Debug)]
pub struct Deployment {
    control: ControlPlane,
    host: Option<Running>,
    plan: Plan,
    folder: TempDir,
}

/// The host of a deployment.
pub fn host_name() -> HostId {
    "host-1".parse().expect("this is a name")
}

/// A folder for a deployment's state, or a part of one.
pub fn state_folder() -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("moorline-lab-").tempdir();
    folder.context("create a folder")
}

/// The host daemon's configuration.
fn host_toml(folder: &Path) -> PathBuf {
    folder.join("host.toml")
}

/// The logs of a process, one for each time that it is started.
fn logs(folder: &Path, name: &str) -> impl Iterator<Item = PathBuf> {
    (1..10_000).map(move |nth| folder.join(format!("{name}-{nth}.log")))
}

/// A name for another log of a process that may have been started before.
fn next_log(folder: &Path, name: &str) -> PathBuf {
    let unused = logs(folder, name).find(|log| !log.exists());
    unused.unwrap_or_else(|| folder.join(format!("{name}-last.log")))
}

impl Deployment {
    /// Starts a control plane and a host daemon that can boot `image`, and waits until the host has registered.
    pub async fn start(tools: &Tools, programs: Programs, image: &Image) -> Result<Self> {
        Plan::new(programs).machines(tools, image).start().await
    }

    async fn begin(plan: Plan) -> Result<Self> {
        let folder = state_folder()?;
        if let Some(archive) = &plan.found {
            let mut unpack = tokio::process::Command::new("tar");
            unpack.arg("xzf").arg(archive).arg("-C").arg(folder.path());
            crate::process::finish(&mut unpack).await?;
        }
        let port = plan.control_port.map_or_else(free_port, Ok)?;
        let settings = plan.control_settings.clone();
        let control = ControlPlane::start_at(port, &plan.programs, folder.path(), settings).await?;
        let config = plan.host_config(&host_name(), folder.path(), control.url());
        std::fs::write(host_toml(folder.path()), config).context("write the host's configuration")?;
        if plan.found.is_none() {
            let state = folder.path().join("host");
            control.enrol_daemon(&host_name(), &state).await?;
        }
        let mut deployment = Self {
            control,
            host: None,
            plan,
            folder,
        };
        deployment.start_host().await?;
        Ok(deployment)
    }

    /// The control plane.
    pub fn control(&self) -> &ControlPlane {
        &self.control
    }

    /// The control plane, to kill it and to start it again.
    pub fn control_mut(&mut self) -> &mut ControlPlane {
        &mut self.control
    }

    /// The control plane's API, as its administrator.
    pub fn client(&self) -> &Client {
        self.control.client()
    }

    /// The control plane's API, as the host that the daemon is.
    pub fn client_of_host(&self) -> Result<Client> {
        self.control.client_of_daemon(&self.folder.path().join("host"))
    }

    /// Where the control plane is.
    pub fn url(&self) -> &str {
        self.control.url()
    }

    /// The folder of everything that the deployment keeps.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Our programs.
    pub fn programs(&self) -> &Programs {
        &self.plan.programs
    }

    /// A command of the `moorline` command line, as its administrator.
    pub fn cli(&self) -> tokio::process::Command {
        self.control.cli()
    }

    /// Starts the host daemon without waiting for anything.
    pub fn launch_host(&mut self) -> Result<()> {
        let mut command = self.plan.host_daemon(self.folder.path());
        command.arg("--config").arg(host_toml(self.folder.path()));
        let log = next_log(self.folder.path(), "host");
        self.host = Some(Running::start("moorline-host", &mut command, log)?);
        Ok(())
    }

    /// Starts the host daemon and waits until the control plane knows the host.
    pub async fn start_host(&mut self) -> Result<()> {
        self.launch_host()?;
        let mut host = self.host.take().context("the host daemon was started")?;
        let there = async || {
            let hosts = self.client().describe_hosts().await.ok()?;
            hosts
                .hosts
                .iter()
                .any(|found| found.id == host_name())
                .then_some(())
        };
        // Cancel-safe: once one branch has ended, the host is there or given up.
        tokio::select! {
            there = wait::until("the host to register", PATIENCE, there) => there.with_context(|| host.last_words())?,
            ended = host.ended() => bail!("moorline-host ended with {}\n{}", ended?, host.last_words()),
        }
        self.host = Some(host);
        Ok(())
    }

    /// Waits until all that the host has is on its disk, up to the present.
    pub async fn on_disk(&self) -> Result<()> {
        let present = self.client().describe_hosts().await?.revision;
        let socket = self.admin_socket()?;
        let written = async || {
            let cache = socket.status().await.ok()?.cache;
            (cache.unwritten == 0 && cache.revision >= Some(present)).then_some(())
        };
        let written = wait::until("all to be on the host's disk", PATIENCE, written).await;
        written.with_context(|| self.last_words())
    }

    /// Kills the host daemon, as a crash would.
    pub async fn kill_host(&mut self) -> Result<()> {
        match self.host.take() {
            Some(mut host) => host.kill().await,
            None => bail!("the host daemon doesn't run"),
        }
    }

    /// Ends the host daemon as a defect of its own would.
    pub async fn abort_host(&mut self) -> Result<ExitStatus> {
        let mut host = self.host.take().context("the host daemon doesn't run")?;
        host.abort().await
    }

    /// The process id of the host daemon, while it runs.
    pub fn host_pid(&self) -> Option<u32> {
        self.host.as_ref().and_then(Running::pid)
    }

    /// The folder of the host daemon's cache.
    pub fn host_cache(&self) -> PathBuf {
        plan::host_cache(self.folder.path())
    }

    /// How the host's cache is kept on its disk; `None` while the daemon doesn't answer.
    pub async fn host_cache_status(&self) -> Option<CacheStatus> {
        Some(self.admin_socket().ok()?.status().await.ok()?.cache)
    }

    /// Waits until the host has on its disk what it has up to this revision.
    pub async fn host_keeps(&self, revision: Revision) -> Result<()> {
        let kept = async || {
            let cache = self.host_cache_status().await?;
            (cache.unwritten == 0 && cache.revision >= Some(revision)).then_some(())
        };
        wait::until("the host's disk to have it", PATIENCE, kept)
            .await
            .with_context(|| self.last_words())
    }

    /// All that the host daemon has said since it was last started.
    pub fn host_said(&self) -> String {
        self.host.as_ref().map(Running::said).unwrap_or_default()
    }

    /// All that the host daemon has said in all its lives.
    pub fn host_ever_said(&self) -> Result<String> {
        let mut said = String::new();
        for log in logs(self.folder(), "host").take_while(|log| log.exists()) {
            let log = std::fs::read(log).context("read a log of the host's")?;
            said += &String::from_utf8_lossy(&log);
        }
        Ok(said)
    }

    /// The process id of the control plane.
    pub fn control_pid(&self) -> Option<u32> {
        self.control.pid()
    }

    /// Makes instances and waits until their hosts say that they run. The seats limit how many guests there are.
    pub async fn run(&self, _seats: &Seats, request: &RunInstances) -> Result<Vec<InstanceId>> {
        let made = self.client().run_instances(request, &fresh_key()).await?;
        let ids: Vec<_> = made.instances.iter().map(|instance| instance.id).collect();
        for id in &ids {
            self.reaches(*id, InstanceState::Running).await?;
        }
        Ok(ids)
    }

    /// The instance as the control plane has it.
    pub async fn instance(&self, id: InstanceId) -> Result<Instance> {
        let query = InstanceQuery {
            instance: Some(id),
            ..InstanceQuery::default()
        };
        let page = self.client().describe_instances(&query).await?;
        page.instances
            .into_iter()
            .next()
            .context("the control plane showed no instance")
    }

    /// Waits until an instance is in a state. Fails at once when it failed instead.
    pub async fn reaches(&self, id: InstanceId, state: InstanceState) -> Result<Instance> {
        let look = async || match self.instance(id).await {
            Ok(instance) if instance.state == state || instance.state == InstanceState::Failed => {
                Some(instance)
            }
            _ => None,
        };
        let what = format!("instance {id} to be {state:?}");
        let instance = wait::until(&what, PATIENCE, look)
            .await
            .with_context(|| self.last_words())?;
        ensure!(
            instance.state == state,
            "instance {id} is {:?}: {:?}\n{}",
            instance.state,
            instance.reason,
            self.last_words()
        );
        Ok(instance)
    }

    /// What the daemons said last.
    pub fn last_words(&self) -> String {
        let host = self.host.as_ref().map(Running::last_words).unwrap_or_default();
        format!("{}\n{host}", self.control.last_words())
    }

    /// The channel to the lab's helper in a guest.
    pub async fn guest(&self, id: InstanceId) -> Result<Control> {
        Control::connect(&self.vm_folder(id).join("run/control.sock"), PATIENCE).await
    }

    /// The folder of an instance's VM.
    pub fn vm_folder(&self, id: InstanceId) -> PathBuf {
        self.vms().join(id.to_string())
    }

    /// Ends instances and waits until their hosts say that they are no more.
    pub async fn terminate(&self, ids: &[InstanceId]) -> Result<()> {
        let body = InstanceIds {
            instances: ids.to_vec(),
        };
        self.client().terminate_instances(&body, &fresh_key()).await?;
        for id in ids {
            self.reaches(*id, InstanceState::Terminated).await?;
        }
        Ok(())
    }

    /// The processes of all VMs, whatever the host daemon knows of them.
    pub fn vm_processes(&self) -> Vec<i32> {
        machines::processes(&self.vms())
    }

    fn vms(&self) -> PathBuf {
        self.folder.path().join("host/vms")
    }
}

impl Drop for Deployment {
    /// The daemon goes first, so that it doesn't start a VM again that is ended here.
    fn drop(&mut self) {
        self.host = None;
        machines::end(&self.vms(), &host_toml(self.folder.path()));
    }
}
