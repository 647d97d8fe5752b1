//! Ours: a control plane, a host daemon with guests that others run, an agent.

use super::SERVER_CORE;
use super::programs::{Programs, pinned};
use crate::deployment::enrolment::enrol;
use crate::process::{Running, finish, tied};
use crate::wait;
use anyhow::{Context as _, Result, bail, ensure};
use moorline_client::{Authority, BaseUrl, Client, Endpoint, HostSocket, Token, Trust, fresh_key};
use moorline_lab_load::disk;
use moorline_lab_load::plan::Place;
use moorline_shared::api::data::PutEntry;
use moorline_shared::api::hosts::RegisterHost;
use moorline_shared::api::instances::RegisterInstance;
use moorline_shared::host::{Channel, Register, Supervision};
use moorline_shared::link::PORT;
use moorline_shared::{EntryPath, HostId, InstanceId};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a server may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many guests are registered at once.
const REGISTRATIONS: usize = 8;
/// The name of the host that our host daemon is.
const HOST: &str = "bench";
/// The entry that every guest begins with.
pub(super) const ENTRY: &str = "bench/value";
/// The length of every value, in bytes.
pub(super) const VALUE_BYTES: usize = 64;

/// The entry that every guest begins with, as a path.
pub(super) fn entry() -> EntryPath {
    ENTRY.parse().expect("this is a path")
}

/// A value as long as all are here.
pub(super) fn value() -> PutEntry {
    PutEntry::value("v".repeat(VALUE_BYTES).as_str().into())
}

/// Where a control plane runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cores {
    /// On the servers' core alone: it is what is measured.
    Servers,
    /// Wherever there is room.
    Any,
}

/// A control plane.
#[derive(Debug)]
pub(super) struct ControlPlane {
    running: Running,
    client: Client,
    address: SocketAddr,
    state: PathBuf,
}

impl ControlPlane {
    /// Starts one whose state lies in `state`, and waits until it answers.
    pub(super) async fn start(programs: &Programs, state: &Path, cores: Cores) -> Result<Self> {
        let address = free_address()?;
        let program = programs.path("moorline-control");
        let mut command = match cores {
            Cores::Servers => pinned(SERVER_CORE, &program),
            Cores::Any => tied(&program),
        };
        command
            .arg("--state")
            .arg(state)
            .args(["--listen", &address.to_string()]);
        command.env("MOORLINE_LOG", "warn");
        fs::create_dir_all(state).context("make a folder for the control plane")?;
        let running = Running::start("moorline-control", &mut command, state.join("log"))?;
        let client = connect(address, state)
            .await
            .with_context(|| running.last_words())?;
        Ok(Self {
            running,
            client,
            address,
            state: state.to_owned(),
        })
    }

    /// Its API, as the administrator.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Where it listens.
    pub(super) fn place(&self) -> Place {
        Place::Tls {
            address: self.address,
            ca: self.state.join("ca.pem"),
        }
    }

    /// Its address.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The administrator's token, for requests that are made by hand.
    pub(super) fn token(&self) -> Result<String> {
        let text = fs::read_to_string(self.state.join("admin.token")).context("read the token")?;
        Ok(text.trim().to_owned())
    }

    /// The file of its store.
    pub(super) fn store(&self) -> PathBuf {
        self.state.join("store.db")
    }

    /// Its process.
    pub(super) fn process(&self) -> Result<u32> {
        self.running.pid().context("the control plane has ended")
    }

    /// Makes so many instances of a host that is only a name, so that nobody follows their data.
    pub(super) async fn instances_elsewhere(&self, count: usize) -> Result<Vec<InstanceId>> {
        let host: HostId = "elsewhere".parse()?;
        self.offer(&host).await?;
        let mut instances = Vec::with_capacity(count);
        for _ in 0..count {
            let request = RegisterInstance {
                host: host.clone(),
                id: None,
                name: None,
                tags: Vec::new(),
                roles: BTreeSet::new(),
                data: BTreeMap::from([(entry(), value())]),
            };
            let made = self.client.register_instance(&request, &fresh_key()).await?;
            instances.extend(made.instances.iter().map(|instance| instance.id));
        }
        Ok(instances)
    }

    async fn as_host(&self, host: &HostId) -> Result<Client> {
        let mut endpoint = endpoint(self.address, &self.state)?;
        endpoint.token = None;
        enrol(&self.client, endpoint, host).await
    }

    /// Makes the daemon that keeps its state in this folder the host.
    async fn enrol_daemon(&self, programs: &Programs, state: &Path) -> Result<()> {
        let folder = self.state.display();
        let mut command = tied(programs.path("moorline"));
        command
            .env("MOORLINE_URL", format!("https://{}", self.address))
            .env("MOORLINE_TOKEN_FILE", format!("{folder}/admin.token"))
            .args(["host", "enroll-token", HOST]);
        let token = finish(&mut command).await?;
        let mut command = tied(programs.path("moorline-host"));
        command.args(["enroll", token.trim(), "--state"]).arg(state);
        finish(&mut command).await.map(drop)
    }

    /// Only a host says what it offers, so this speaks for it.
    async fn offer(&self, host: &HostId) -> Result<()> {
        let offer = RegisterHost {
            zone: "zone-2".parse()?,
            vcpus: 1,
            memory_mib: 128,
            images: Vec::new(),
        };
        self.as_host(host)
            .await?
            .register_host(host, &offer, &fresh_key())
            .await?;
        Ok(())
    }

    /// Ends it as an administrator would, and waits until its store is closed.
    pub(super) async fn end(mut self) -> Result<()> {
        let pid = i32::try_from(self.process()?).ok().and_then(Pid::from_raw);
        kill_process(pid.context("the control plane has no id")?, Signal::TERM)
            .context("end the control plane")?;
        let ended = timeout(PATIENCE, self.running.ended()).await;
        let status = ended.context("the control plane doesn't end")??;
        ensure!(
            status.success(),
            "the control plane ended with {status}\n{}",
            self.running.last_words()
        );
        Ok(())
    }
}

async fn connect(address: SocketAddr, state: &Path) -> Result<Client> {
    let connect = async || {
        let client = Client::new(endpoint(address, state).ok()?).ok()?;
        client.describe_hosts().await.ok()?;
        Some(client)
    };
    wait::until("the control plane to answer", PATIENCE, connect).await
}

/// A control plane with its state there, for its administrator.
pub(super) fn endpoint(address: SocketAddr, state: &Path) -> Result<Endpoint> {
    let url: BaseUrl = format!("https://{address}")
        .parse()
        .context("the control plane's address")?;
    let token = Token::read(&state.join("admin.token")).context("read the token")?;
    let authority = Authority::read(&state.join("ca.pem"))?;
    Ok(Endpoint::new(url, token).trusting(Trust::Authority(authority)))
}

/// An address that nobody listens on now.
pub(super) fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    listener.local_addr().context("find a free port")
}

/// A guest of the host daemon; whoever connects to its socket is it.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    /// Which instance it is.
    pub(super) instance: InstanceId,
    /// Where it dials.
    pub(super) socket: PathBuf,
}

/// What guests of a host are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    /// To ask the control plane as often as a host can be told to let them: how long a write takes is measured with one
    /// after the other.
    Often,
    /// What they are where nothing is configured.
    ByDefault,
}

impl Allowed {
    const STREAMS: u32 = 16;
    const RELAYED_BYTES: u32 = 8 * 1024 * 1024;
    const VIEW_BYTES: u32 = 2 * 1024 * 1024;
    const FOREIGN_BYTES: u32 = 4 * 1024 * 1024;

    /// The most memory that the daemon holds for one guest with the default bounds, in MB: its own view, those of others, a
    /// view under way on each stream, and what is relayed to it.
    pub(super) fn megabytes_per_guest() -> f64 {
        let followed = (Self::STREAMS + 1) * Self::VIEW_BYTES;
        f64::from(Self::VIEW_BYTES + Self::FOREIGN_BYTES + followed + Self::RELAYED_BYTES) / 1e6
    }

    /// The defaults are written down, so that the most that they come to is known here.
    fn tables(self) -> String {
        match self {
            Self::Often => {
                "[link]\nvsock = \"off\"\nupstream_per_second = 1000\nrelays_per_second = 1000\nguests = 1100\n".into()
            }
            Self::ByDefault => format!(
                "[link]\nvsock = \"off\"\nstreams = {}\nrelayed_bytes = {}\n\
                 [cache]\nbytes = {}\nforeign_bytes = {}\n",
                Self::STREAMS,
                Self::RELAYED_BYTES,
                Self::VIEW_BYTES,
                Self::FOREIGN_BYTES
            ),
        }
    }
}

/// A host daemon on the servers' core, with guests.
#[derive(Debug)]
pub(super) struct Host {
    running: Running,
    guests: Vec<Guest>,
    folder: PathBuf,
}

impl Host {
    /// Starts a host daemon of `control` in `folder`, and registers so many guests there.
    pub(super) async fn start(
        programs: &Programs,
        control: &ControlPlane,
        folder: &Path,
        guests: usize,
    ) -> Result<Self> {
        Self::start_with(programs, control, folder, guests, Allowed::Often).await
    }

    /// The same with guests that are allowed something else.
    pub(super) async fn start_with(
        programs: &Programs,
        control: &ControlPlane,
        folder: &Path,
        guests: usize,
        allowed: Allowed,
    ) -> Result<Self> {
        fs::create_dir_all(folder.join("vm")).context("make a folder for guests' sockets")?;
        fs::write(folder.join("host.toml"), config(control, folder, allowed))
            .context("write the host's configuration")?;
        control.enrol_daemon(programs, &folder.join("host")).await?;
        let mut command = pinned(SERVER_CORE, &programs.path("moorline-host"));
        command
            .arg("--config")
            .arg(folder.join("host.toml"))
            .env("MOORLINE_LOG", "warn");
        let mut running = Running::start("moorline-host", &mut command, folder.join("host.log"))?;
        // Cancel-safe: once one branch has ended, the guests are registered or given up.
        let guests = tokio::select! {
            guests = register(control, folder, guests) => guests.with_context(|| running.last_words())?,
            ended = running.ended() => bail!("moorline-host ended with {}\n{}", ended?, running.last_words()),
        };
        Ok(Self {
            running,
            guests,
            folder: folder.to_owned(),
        })
    }

    /// Registers another guest, with these entries.
    pub(super) async fn add(&mut self, data: BTreeMap<EntryPath, PutEntry>) -> Result<Guest> {
        let path = self.folder.join(format!("vm/{}", self.guests.len()));
        let guest = register_one(self.folder.join("register.sock"), path, data).await?;
        self.guests.push(guest.clone());
        Ok(guest)
    }

    /// Its guests.
    pub(super) fn guests(&self) -> &[Guest] {
        &self.guests
    }

    /// Its process.
    pub(super) fn process(&self) -> Result<u32> {
        self.running.pid().context("the host daemon has ended")
    }
}

fn config(control: &ControlPlane, folder: &Path, allowed: Allowed) -> String {
    let quoted = |path: PathBuf| format!("{:?}", path.display().to_string());
    format!(
        "host = {HOST:?}\nzone = \"zone-1\"\nstate_dir = {}\n\
         [control]\nurl = \"https://{}\"\n\
         [capacity]\nvcpus = 1\nmemory_mib = 128\n\
         [sockets]\nregister = {}\nadmin = {}\n\
         {}\
         [external]\ndirectories = [{}]\n",
        quoted(folder.join("host")),
        control.address,
        quoted(folder.join("register.sock")),
        quoted(folder.join("admin.sock")),
        allowed.tables(),
        quoted(folder.join("vm")),
    )
}

async fn register(control: &ControlPlane, folder: &Path, count: usize) -> Result<Vec<Guest>> {
    let there = async || {
        let hosts = control.client.describe_hosts().await.ok()?;
        hosts
            .hosts
            .iter()
            .any(|host| host.id.as_str() == HOST)
            .then_some(())
    };
    wait::until("the host to register", PATIENCE, there).await?;
    let (mut tasks, mut guests) = (JoinSet::new(), Vec::with_capacity(count));
    for nth in 0..count {
        if tasks.len() >= REGISTRATIONS {
            guests.extend(joined(&mut tasks).await?);
        }
        tasks.spawn(register_one(
            folder.join("register.sock"),
            folder.join(format!("vm/{nth}")),
            BTreeMap::from([(entry(), value())]),
        ));
    }
    while let Some(guest) = joined(&mut tasks).await? {
        guests.push(guest);
    }
    Ok(guests)
}

async fn joined(tasks: &mut JoinSet<Result<Guest>>) -> Result<Option<Guest>> {
    match tasks.join_next().await {
        Some(guest) => guest.context("join a registration")?.map(Some),
        None => Ok(None),
    }
}

async fn register_one(socket: PathBuf, path: PathBuf, data: BTreeMap<EntryPath, PutEntry>) -> Result<Guest> {
    let body = Register {
        instance: None,
        key: None,
        name: None,
        tags: Vec::new(),
        roles: BTreeSet::new(),
        data,
        channel: Channel::Hybrid {
            path: path.clone(),
            device: None,
        },
        supervision: Supervision::Unsupervised,
    };
    let registered = HostSocket::new(&socket)?.register(&body).await?;
    let mut dialled = path.into_os_string();
    dialled.push(format!("_{PORT}"));
    Ok(Guest {
        instance: registered.instance,
        socket: dialled.into(),
    })
}

/// An agent on the servers' core, connected to the host as one of its guests.
#[derive(Debug)]
pub(super) struct Agent {
    running: Running,
    socket: PathBuf,
}

/// Gives the agent what the guest proves itself by, if the load was the guest before.
fn hand_over(guest: &Guest, state: &Path) -> Result<()> {
    let Some(key) = disk::link_key(&guest.socket)? else {
        return Ok(());
    };
    std::fs::create_dir_all(state).context("make the agent's folder")?;
    std::fs::write(state.join("link-key"), key.expose()).context("write the agent's link key")
}

impl Agent {
    /// Starts the agent of `guest`, and waits until its socket takes connections.
    pub(super) async fn start(programs: &Programs, guest: &Guest, folder: &Path) -> Result<Self> {
        Self::start_with(programs, guest, folder, &[]).await
    }

    /// The same, with a metadata service at `address` for clients that have a token.
    pub(super) async fn with_imds(
        programs: &Programs,
        guest: &Guest,
        folder: &Path,
        address: SocketAddr,
    ) -> Result<Self> {
        let listen = address.to_string();
        let agent = Self::start_with(
            programs,
            guest,
            folder,
            &["--imds", "v2", "--imds-listen", &listen],
        )
        .await?;
        let listens = async || TcpStream::connect(address).ok();
        wait::until("the metadata service to listen", PATIENCE, listens)
            .await
            .with_context(|| agent.running.last_words())?;
        Ok(agent)
    }

    async fn start_with(programs: &Programs, guest: &Guest, folder: &Path, options: &[&str]) -> Result<Self> {
        let socket = folder.join("agent.sock");
        let mut command = pinned(SERVER_CORE, programs.agent());
        command.args([
            "run",
            "--log",
            "warn",
            "--link",
            &format!("unix:{}", guest.socket.display()),
        ]);
        command.arg("--socket").arg(&socket).args(options);
        let state = folder.join("agent");
        hand_over(guest, &state)?;
        command.arg("--state").arg(state);
        let running = Running::start("moorline-agent", &mut command, folder.join("agent.log"))?;
        let listens = async || UnixStream::connect(&socket).ok();
        wait::until("the agent to listen", PATIENCE, listens)
            .await
            .with_context(|| running.last_words())?;
        Ok(Self { running, socket })
    }

    /// Where local programs find it.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process.
    pub(super) fn process(&self) -> Result<u32> {
        self.running.pid().context("the agent has ended")
    }
}
