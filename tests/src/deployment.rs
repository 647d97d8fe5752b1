//! A whole deployment in a folder of its own: a control plane and a host daemon as processes, and the guests that the
//! host daemon starts.
//!
//! Both daemons are built as cargo builds them for their own tests, listen on sockets that nobody else uses, and die
//! with the lab. VMs outlive their daemon by design, so dropping a deployment ends them by the process ids in the
//! daemon's own records.

use crate::guest::{Control, Seats};
use crate::image::Image;
use crate::process::{Running, tied};
use crate::setup::{Tools, tools};
use crate::{process, progress, wait};
use anyhow::{Context, Result, bail, ensure};
use moorline_client::{BaseUrl, Client, Endpoint, Token, fresh_key};
use moorline_shared::api::instances::{Instance, InstanceIds, InstanceQuery, InstanceState, RunInstances};
use moorline_shared::{HostId, InstanceId};
use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// How long anything here may take on a machine that builds meanwhile.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The name of the image that every instance boots.
pub const IMAGE: &str = "busybox";

/// Our daemons and the command line, as cargo built them.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Builds them, if there is anything to build.
    pub async fn build() -> Result<Self> {
        let packages = ["moorline-control", "moorline-host", "moorline-client"];
        let build = async {
            let mut command = tools::cargo();
            command.args(["build", "--quiet", "--bins"]);
            for package in packages {
                command.args(["--package", package]);
            }
            process::finish(command.current_dir(tools::workspace())).await
        };
        progress::quietly_at_first("build the daemons", build).await?;
        Ok(Self {
            folder: tools::target_folder().join("debug"),
        })
    }

    /// Where one of them is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// A control plane and a host, running.
#[derive(Debug)]
pub struct Deployment {
    control: Running,
    host: Option<Running>,
    client: Client,
    programs: Programs,
    url: String,
    folder: TempDir,
}

/// The host of a deployment.
pub fn host_name() -> HostId {
    "host-1".parse().expect("this is a name")
}

impl Deployment {
    /// Starts a control plane and a host daemon that can boot `image`, and waits until the host has registered.
    pub async fn start(tools: &Tools, programs: Programs, image: &Image) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("moorline-lab-")
            .tempdir()
            .context("create a folder")?;
        let port = free_port()?;
        let url = format!("http://127.0.0.1:{port}");
        let control = start_control(&programs, folder.path(), port)?;
        let token_file = folder.path().join("control/admin.token");
        let client = client(&url, &token_file)
            .await
            .with_context(|| control.last_words())?;
        std::fs::write(
            folder.path().join("host.toml"),
            host_config(tools, image, folder.path(), &url),
        )
        .context("write the host's configuration")?;
        let mut deployment = Self {
            control,
            host: None,
            client,
            programs,
            url,
            folder,
        };
        deployment.start_host().await?;
        Ok(deployment)
    }

    /// The control plane's API, as its administrator.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Where the control plane is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The folder of everything that the deployment keeps.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Our programs.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// A command of the `moorline` command line, as its administrator.
    pub fn cli(&self) -> tokio::process::Command {
        let mut command = tied(self.programs.path("moorline"));
        command.env("MOORLINE_URL", &self.url);
        command.env(
            "MOORLINE_TOKEN_FILE",
            self.folder.path().join("control/admin.token"),
        );
        command.env("MOORLINE_CONFIG", self.folder.path().join("no-profile.toml"));
        command
    }

    /// Starts the host daemon and waits until the control plane knows the host.
    pub async fn start_host(&mut self) -> Result<()> {
        let mut command = tied(self.programs.path("moorline-host"));
        command.arg("--config").arg(self.folder.path().join("host.toml"));
        let mut host = Running::start("moorline-host", &mut command, self.log("host"))?;
        let there = async || {
            let hosts = self.client.describe_hosts().await.ok()?;
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

    fn log(&self, name: &str) -> PathBuf {
        let nth = (1..1_000)
            .find(|n| !self.folder.path().join(format!("{name}-{n}.log")).exists())
            .unwrap_or(1);
        self.folder.path().join(format!("{name}-{nth}.log"))
    }

    /// Kills the host daemon, as a crash would.
    pub async fn kill_host(&mut self) -> Result<()> {
        match self.host.take() {
            Some(mut host) => host.kill().await,
            None => bail!("the host daemon doesn't run"),
        }
    }

    /// The process id of the host daemon, while it runs.
    pub fn host_pid(&self) -> Option<u32> {
        self.host.as_ref().and_then(Running::pid)
    }

    /// The process id of the control plane.
    pub fn control_pid(&self) -> Option<u32> {
        self.control.pid()
    }

    /// Makes instances and waits until their hosts say that they run. The seats limit how many guests there are.
    pub async fn run(&self, _seats: &Seats, request: &RunInstances) -> Result<Vec<InstanceId>> {
        let made = self.client.run_instances(request, &fresh_key()).await?;
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
        let page = self.client.describe_instances(&query).await?;
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
        self.folder.path().join("host/vms").join(id.to_string())
    }

    /// Ends instances and waits until their hosts say that they are no more.
    pub async fn terminate(&self, ids: &[InstanceId]) -> Result<()> {
        let body = InstanceIds {
            instances: ids.to_vec(),
        };
        self.client.terminate_instances(&body, &fresh_key()).await?;
        for id in ids {
            self.reaches(*id, InstanceState::Terminated).await?;
        }
        Ok(())
    }

    /// The processes of all VMs, by the host daemon's records.
    pub fn vm_processes(&self) -> Vec<i32> {
        let folders = std::fs::read_dir(self.folder.path().join("host/vms"));
        let records = folders
            .into_iter()
            .flatten()
            .flatten()
            .map(|folder| folder.path().join("vm.json"));
        records.flat_map(|record| pids(&record)).collect()
    }
}

/// The process ids that a VM's record names and that are still those of its programs.
fn pids(record: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(record).unwrap_or_default();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let life = &json["life"];
    let found = [&life["vmm"]["pid"], &life["vsock"]["process"]["pid"]];
    let pids = found
        .into_iter()
        .filter_map(serde_json::Value::as_i64)
        .filter_map(|pid| i32::try_from(pid).ok());
    pids.filter(|pid| is_a_vm(*pid)).collect()
}

fn is_a_vm(pid: i32) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
    let program = String::from_utf8_lossy(program);
    program.contains("qemu-system") || program.contains("vhost-device-vsock")
}

impl Drop for Deployment {
    /// The daemon goes first, so that it doesn't start a VM again that is ended here.
    fn drop(&mut self) {
        self.host = None;
        for pid in self.vm_processes() {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                // One that is gone already is what is wanted.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// A port that nobody listens on now. Another process could take it before it is used; then that start fails and says
/// so.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}

fn start_control(programs: &Programs, folder: &Path, port: u16) -> Result<Running> {
    let mut command = tied(programs.path("moorline-control"));
    command
        .arg("--state")
        .arg(folder.join("control"))
        .args(["--listen", &format!("127.0.0.1:{port}")]);
    Running::start("moorline-control", &mut command, folder.join("control.log"))
}

async fn client(url: &str, token_file: &Path) -> Result<Client> {
    let url: BaseUrl = url.parse().context("the control plane's address")?;
    let connect = async || {
        let client = Client::new(Endpoint::new(url.clone(), Token::read(token_file).ok()?)).ok()?;
        client.describe_hosts().await.ok()?;
        Some(client)
    };
    wait::until("the control plane to answer", PATIENCE, connect).await
}

/// The host's configuration: what the README's has, in folders of this deployment, with the lab's channel in guests.
fn host_config(tools: &Tools, image: &Image, folder: &Path, url: &str) -> String {
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let mut text = format!("host = \"{}\"\nzone = \"zone-1\"\n", host_name());
    let state = folder.join("host");
    let _ = writeln!(text, "state_dir = {}", quoted(&state));
    let _ = writeln!(
        text,
        "[control]\nurl = {url:?}\ntoken_file = {}",
        quoted(&folder.join("control/admin.token"))
    );
    let _ = writeln!(text, "[capacity]\nvcpus = 64\nmemory_mib = 16384");
    let (register, admin) = (folder.join("register.sock"), folder.join("admin.sock"));
    let _ = writeln!(
        text,
        "[sockets]\nregister = {}\nadmin = {}",
        quoted(&register),
        quoted(&admin)
    );
    let _ = writeln!(text, "[link]\nvsock = \"off\"");
    let _ = writeln!(
        text,
        "[external]\ndirectories = [{}]",
        quoted(&folder.join("external"))
    );
    let _ = writeln!(text, "[vm]\nstop_seconds = 2");
    let _ = writeln!(
        text,
        "[qemu]\naccel = \"tcg\"\nvsock = \"vhost-user\"\nconsole = \"file\""
    );
    let _ = writeln!(text, "vsock_device = {}", quoted(&tools.vsock_device));
    let arguments = crate::guest::control_arguments(Path::new("{folder}/control.sock"));
    let _ = writeln!(text, "arguments = {arguments:?}");
    let _ = writeln!(text, "[images.{IMAGE}]\nkernel = {}", quoted(&image.kernel));
    let _ = writeln!(
        text,
        "initrd = {}\nappend = {:?}",
        quoted(&image.initrd),
        image.command_line
    );
    text
}
