//! Those we are compared with: the echo, redis and nginx.

use super::SERVER_CORE;
use super::load::Loader;
use super::programs::pinned;
use super::servers::free_address;
use crate::cache::Cache;
use crate::process::Running;
use crate::setup::unpack;
use crate::wait;
use anyhow::{Context as _, Result, bail};
use moorline_lab_load::plan::{ECHO, Echo, Place};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// How long a peer may take to start.
const PATIENCE: Duration = Duration::from_secs(20);
const NGINX_CONF: &str = include_str!("nginx.conf");

/// A peer on the servers' core. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Peer {
    socket: PathBuf,
    /// Where else it listens.
    address: Option<SocketAddr>,
    /// The process that serves.
    server: u32,
    _running: Running,
}

impl Peer {
    /// Where it listens.
    pub(super) fn place(&self) -> Place {
        Place::Unix(self.socket.clone())
    }

    /// Where it listens on the loopback device, if it does.
    pub(super) fn tcp_place(&self) -> Option<Place> {
        self.address.map(Place::Tcp)
    }

    /// The process that serves.
    pub(super) fn server(&self) -> u32 {
        self.server
    }

    /// As many bytes as it is asked for.
    pub(super) async fn echo(loader: &Loader, folder: &Path) -> Result<Self> {
        let socket = folder.join("echo.sock");
        let plan = Echo {
            socket: socket.clone(),
        };
        let running = loader
            .stay(ECHO, pinned(SERVER_CORE, loader.program()), &plan)
            .await?;
        Ok(Self {
            socket,
            address: None,
            server: running.pid().context("the echo has ended")?,
            _running: running,
        })
    }

    /// Redis without persistence.
    pub(super) async fn redis(cache: &Cache, folder: &Path) -> Result<Self> {
        let package = unpack::with_dependencies(cache, "redis-server").await?;
        let socket = folder.join("redis.sock");
        let mut command = package.program("usr/bin/redis-server");
        command
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .args(["--server_cpulist", &SERVER_CORE.to_string()])
            .arg("--unixsocket")
            .arg(&socket)
            .current_dir(folder);
        let running = start("redis-server", &mut command, folder, &socket).await?;
        Ok(Self {
            socket,
            address: None,
            server: running.pid().context("redis has ended")?,
            _running: running,
        })
    }

    /// Nginx with one file of `length` bytes, [`Self::FILE`].
    pub(super) async fn nginx(cache: &Cache, folder: &Path, length: usize) -> Result<Self> {
        let package = unpack::with_dependencies(cache, "nginx-light").await?;
        let folder = folder.join("nginx");
        fs::create_dir_all(folder.join("www")).context("make a folder for nginx")?;
        fs::write(folder.join("www/file"), "n".repeat(length)).context("write nginx's file")?;
        let address = free_address()?;
        let conf = NGINX_CONF
            .replace("{folder}", &folder.display().to_string())
            .replace("{address}", &address.to_string());
        fs::write(folder.join("nginx.conf"), conf).context("write nginx's configuration")?;
        let mut command = package.program("usr/sbin/nginx");
        command
            .arg("-e")
            .arg("stderr")
            .arg("-p")
            .arg(&folder)
            .arg("-c")
            .arg(folder.join("nginx.conf"));
        let socket = folder.join("nginx.sock");
        let running = start("nginx", &mut command, &folder, &socket).await?;
        let server = running.pid().context("nginx has ended")?;
        pin(server)?;
        Ok(Self {
            socket,
            address: Some(address),
            server,
            _running: running,
        })
    }

    /// What to ask nginx for.
    pub(super) const FILE: &str = "/file";
}

/// Starts a server and waits until its socket takes connections.
async fn start(name: &'static str, command: &mut Command, folder: &Path, socket: &Path) -> Result<Running> {
    let mut running = Running::start(name, command, folder.join(format!("{name}.log")))?;
    let listens = async || UnixStream::connect(socket).ok();
    // Cancel-safe: once one branch has ended, the server listens or is given up.
    tokio::select! {
        listens = wait::until(name, PATIENCE, listens) => listens.with_context(|| running.last_words())?,
        ended = running.ended() => bail!("{name} ended with {}\n{}", ended?, running.last_words()),
    };
    Ok(running)
}

/// Moves a server of one thread to the servers' core.
fn pin(server: u32) -> Result<()> {
    let pid = i32::try_from(server).ok().and_then(Pid::from_raw);
    let mut cores = CpuSet::new();
    cores.set(SERVER_CORE);
    sched_setaffinity(pid, &cores).context("move a server to its core")
}
