//! Network namespaces of this machine: a part of a deployment, or a program, that has a network of its own.

use crate::process::{Running, finish, tied};
use crate::wait;
use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

const PATIENCE: Duration = Duration::from_secs(20);

/// A network namespace, which ends with the process that holds it open.
#[derive(Debug)]
pub struct Namespace {
    holder: Running,
    pid: u32,
}

impl Namespace {
    /// A new one, with nothing in it but a loopback device that is down. `log` takes what the process says that holds it.
    ///
    /// Fails without the right to make one, which is root's.
    pub async fn new(log: &Path) -> Result<Self> {
        let mut command = tied("unshare");
        command.args(["--net", "--", "sleep", "infinity"]);
        let holder = Running::start("unshare", &mut command, log.to_owned())?;
        let pid = holder.pid().context("the namespace has ended")?;
        let own = fs::read_link("/proc/self/ns/net").context("read our own namespace")?;
        let other = async || fs::read_link(door(pid)).ok().filter(|other| *other != own);
        wait::until("a network namespace", PATIENCE, other)
            .await
            .with_context(|| holder.last_words())?;
        Ok(Self { holder, pid })
    }

    /// The process that holds it, by which others find it.
    ///
    /// Fails when that has ended: another process could have its id by now.
    pub fn pid(&self) -> Result<u32> {
        self.holder.pid().context("the namespace has ended")
    }

    /// A command line for a program inside.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        inside(&door(self.pid), program)
    }

    /// What lets others start programs inside.
    pub(crate) fn door(&self) -> PathBuf {
        door(self.pid)
    }

    /// Runs `ip` inside, with these words.
    pub async fn ip(&self, words: &str) -> Result<String> {
        self.pid()?;
        finish(self.command("ip").args(words.split(' '))).await
    }

    /// A socket that listens inside, and is served by whoever has it, outside.
    ///
    /// Fails when the address isn't there, which loopback's isn't before its device is up.
    pub fn listen(&self, at: SocketAddr) -> Result<TcpListener> {
        let door = File::open(door(self.pid()?)).context("open the namespace")?;
        let bind = move || {
            move_into_link_name_space(door.as_fd(), Some(LinkNameSpaceType::Network))
                .context("enter the namespace")?;
            TcpListener::bind(at).with_context(|| format!("listen at {at} in the namespace"))
        };
        // A thread that has entered stays inside, so that it is one that ends.
        let bound = std::thread::spawn(bind).join();
        bound.map_err(|_| anyhow!("the thread in the namespace panicked"))?
    }

    /// Has every packet on loopback vanish, without a word to whoever sent it.
    pub async fn lose_packets(&self) -> Result<()> {
        self.loopback_queue("replace", &["blackhole"]).await
    }

    /// Has packets on loopback arrive again.
    pub async fn mend(&self) -> Result<()> {
        self.loopback_queue("delete", &[]).await
    }

    async fn loopback_queue(&self, what: &str, kind: &[&str]) -> Result<()> {
        let mut command = self.command("tc");
        command.args(["qdisc", what, "dev", "lo", "root"]).args(kind);
        finish(&mut command).await.map(drop)
    }
}

fn door(pid: u32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}

/// A command line for a program in the namespace behind this door.
pub(crate) fn inside(door: &Path, program: impl AsRef<Path>) -> Command {
    let mut command = tied("nsenter");
    command
        .arg(format!("--net={}", door.display()))
        .arg("--")
        .arg(program.as_ref());
    command
}
