//! The metadata service of the agent: who may ask it, in network namespaces of this machine, and what real clients find in
//! a real guest.

mod guest;
mod namespaces;

use anyhow::{Context, Result, ensure};
use moorline_lab::process::{Running, finish, tied};
use moorline_lab::wait;
use std::fs;
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

const PATIENCE: Duration = Duration::from_secs(20);

/// A network namespace, which ends with the process that holds it open.
#[derive(Debug)]
struct Namespace {
    holder: Running,
    pid: u32,
}

impl Namespace {
    /// A new one, with nothing in it but a loopback device that is down.
    async fn new(log: &Path) -> Result<Self> {
        let mut command = tied("unshare");
        command.args(["--net", "--", "sleep", "infinity"]);
        let holder = Running::start("unshare", &mut command, log.to_owned())?;
        let pid = holder.pid().context("the namespace has ended")?;
        let own = fs::read_link("/proc/self/ns/net").context("read our own namespace")?;
        let other = async || {
            fs::read_link(format!("/proc/{pid}/ns/net"))
                .ok()
                .filter(|other| *other != own)
        };
        wait::until("a network namespace", PATIENCE, other)
            .await
            .with_context(|| holder.last_words())?;
        Ok(Self { holder, pid })
    }

    /// A command line for a program inside.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = tied("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.pid))
            .arg("--")
            .arg(program.as_ref());
        command
    }

    async fn ip(&self, arguments: &str) -> Result<String> {
        ensure!(self.holder.pid().is_some(), "the namespace has ended");
        finish(self.command("ip").args(arguments.split(' '))).await
    }

    /// What curl is answered, by its status and body. Fails when there is no answer.
    async fn curl(&self, who: Who, arguments: &[&str]) -> Result<(String, String)> {
        let mut command = self.command("setpriv");
        match who {
            Who::Root => command.arg("--"),
            Who::Ordinary => command.args(["--reuid=1000", "--regid=1000", "--clear-groups", "--"]),
        };
        command
            .args(["curl", "--silent", "--show-error", "--max-time", "10"])
            .args(["--write-out", "\n%{http_code}"])
            .args(arguments);
        let said = finish(&mut command).await?;
        let (body, status) = said.rsplit_once('\n').context("curl says no status")?;
        Ok((status.to_owned(), body.to_owned()))
    }
}

/// Whose program asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Root,
    Ordinary,
}
