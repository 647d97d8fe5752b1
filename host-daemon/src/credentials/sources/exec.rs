//! The source `exec`: a command that prints credentials, as [`super::super::document`] reads them.
//!
//! The command runs as the daemon's own user, in a process group of its own, with an environment that says for whom
//! and nothing of the daemon's. Whatever it leaves in its group is killed with it. What it prints goes to nobody but the
//! instance; of what it says on standard error, the end of it goes to the log if the command fails.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use zeroize::Zeroizing;

use super::{FetchError, Fetched, Lasts, Request, Rhythm, escaped};
use crate::credentials::config::KeyError;
use crate::credentials::document;
use crate::vm::kernel::readable;

/// The most that a command prints, in bytes.
const MAX_OUTPUT: usize = 64 * 1024;
/// How much of what it says on standard error is kept, and how much of that is told, in bytes.
const KEPT_ERRORS: usize = 4 * 1024;
const TOLD_ERRORS: usize = 512;
/// Where the command finds other programs, unless its environment says otherwise.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The keys of the source.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The program, by its absolute path, and its arguments.
    pub command: Vec<String>,
    /// For how long it may run, in seconds, 1 to 300.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u32,
    /// More variables of its environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

const fn default_timeout() -> u32 {
    30
}

impl Settings {
    pub(super) fn check(&self) -> Result<(), KeyError> {
        KeyError::bound("timeout_seconds", self.timeout_seconds.into(), 1, 300)?;
        match self.command.first() {
            None => Err(KeyError::new(
                "command",
                "is empty: name a program by its absolute path",
            )),
            Some(program) if !Path::new(program).is_absolute() => Err(KeyError::new(
                "command",
                format!("begins with '{program}': name the program by its absolute path"),
            )),
            Some(_) => Ok(()),
        }
    }

    #[expect(clippy::unused_self, reason = "other sources decide by their keys")]
    pub(super) const fn rhythm(&self) -> Rhythm {
        Rhythm::Own
    }

    pub(super) fn patience(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.into())
    }

    pub(super) async fn fetch(&self, of: &Request) -> Result<Fetched, FetchError> {
        let failed = |source| FetchError::Command {
            command: self.program(),
            source,
        };
        let mut group = Group::spawn(&mut self.command_for(of)).map_err(failed)?;
        let printed = watch(self.program(), &mut group).await?;
        let (credential, until) = document::read(&printed)?;
        Ok(Fetched {
            credential,
            lasts: Lasts::Until(until),
        })
    }

    fn program(&self) -> String {
        self.command.first().cloned().unwrap_or_default()
    }

    fn command_for(&self, of: &Request) -> Command {
        let mut command = Command::new(self.program());
        command
            .args(&self.command[1..])
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .envs(&self.environment)
            .env("MOORLINE_INSTANCE", of.instance.to_string())
            .env("MOORLINE_INCARNATION", of.incarnation.to_string())
            .env("MOORLINE_ACCOUNT", of.account.as_str())
            .env("MOORLINE_ROLE", of.role.as_str())
            .env("MOORLINE_HOST", of.host.as_str())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// Reads what the command prints until it ends.
async fn watch(command: String, group: &mut Group) -> Result<Zeroizing<Vec<u8>>, FetchError> {
    let (stdout, stderr, id) = (group.child.stdout.take(), group.child.stderr.take(), group.id);
    let (printed, errors, ended) = tokio::join!(
        async {
            let printed = printed(stdout).await;
            if printed.is_err() {
                // It would go on for ever, and nobody reads it any more.
                kill(id);
            }
            printed
        },
        ending(stderr),
        async {
            let ended = ended(id).await;
            // What it left would keep its standard error open.
            kill(id);
            ended
        },
    );
    let failed = |source| FetchError::Command {
        command: command.clone(),
        source,
    };
    ended.map_err(failed)?;
    let status = group.reap().await.map_err(failed)?;
    let printed = printed?;
    if status.success() {
        return Ok(printed);
    }
    Err(FetchError::Failed {
        command,
        how: format!("ended with {status}"),
        stderr: escaped(&errors, TOLD_ERRORS),
    })
}

async fn printed(from: Option<impl AsyncRead + Unpin>) -> Result<Zeroizing<Vec<u8>>, FetchError> {
    // Large enough from the beginning: a copy into a larger one would leave the secrets where they were.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_OUTPUT + 1));
    let Some(from) = from else {
        return Ok(bytes);
    };
    let mut from = from.take(MAX_OUTPUT as u64 + 1);
    loop {
        let read = from.read_buf(&mut *bytes).await;
        if bytes.len() > MAX_OUTPUT {
            return Err(FetchError::TooLong(MAX_OUTPUT));
        }
        // A pipe that breaks has ended.
        if read.unwrap_or(0) == 0 {
            return Ok(bytes);
        }
    }
}

/// The end of what is said, however much it is.
async fn ending(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::with_capacity(2 * KEPT_ERRORS);
    let Some(mut from) = from else {
        return kept;
    };
    let mut piece = [0; 1024];
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        kept.extend_from_slice(&piece[..count]);
        if kept.len() > KEPT_ERRORS {
            kept.drain(..kept.len() - KEPT_ERRORS);
        }
    }
    kept
}

/// A command and all that it starts. Dropping this kills them.
struct Group {
    child: Child,
    /// The group's id, which is its own until the command is reaped.
    id: Option<Pid>,
}

impl Group {
    fn spawn(command: &mut Command) -> std::io::Result<Self> {
        let child = command.process_group(0).kill_on_drop(true).spawn()?;
        let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Self { child, id })
    }

    /// Takes the status of a command that has ended.
    async fn reap(&mut self) -> std::io::Result<ExitStatus> {
        self.id = None;
        self.child.wait().await
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        kill(self.id);
    }
}

/// Kills all that is left of a group whose command has not been reaped.
fn kill(group: Option<Pid>) {
    if let Some(id) = group {
        // A group of which nobody is left needs no killing.
        let _ = rustix::process::kill_process_group(id, Signal::KILL);
    }
}

/// Waits until the process has ended, and leaves it to be reaped.
async fn ended(id: Option<Pid>) -> std::io::Result<()> {
    let Some(id) = id else {
        return Ok(());
    };
    let descriptor = readable(rustix::process::pidfd_open(id, PidfdFlags::NONBLOCK)?)?;
    // A process's descriptor becomes readable when it ends, and stays so.
    drop(descriptor.readable().await?);
    Ok(())
}

#[cfg(test)]
mod tests;
