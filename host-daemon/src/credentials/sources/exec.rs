//! The source `exec`: a command that prints credentials, as [`super::super::document`] reads them.
//!
//! The command runs as the daemon's own user, in a process group of its own, with an environment that says for whom
//! and nothing of the daemon's. Whatever it leaves in its group is killed with it; a process that it put elsewhere (setsid)
//! lives on, and is not waited for. What it prints goes to nobody but the
//! instance; of what it says on standard error, the end of it goes to the log if the command fails.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use moorline_shared::secret::Secret;
use rustix::buffer::spare_capacity;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use zeroize::Zeroizing;

use super::{FetchError, Fetched, Lasts, Request, Source, escaped};
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
    /// More variables of its environment, in which there may be secrets.
    #[serde(default, deserialize_with = "variables")]
    pub environment: BTreeMap<String, Secret>,
}

const fn default_timeout() -> u32 {
    30
}

/// Texts under names. The parser's own complaints would quote what stands there instead.
fn variables<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Secret>, D::Error> {
    let toml::Value::Table(table) = toml::Value::deserialize(from)? else {
        return Err(D::Error::custom("environment is no table of variables"));
    };
    let variable = |(name, value)| match value {
        toml::Value::String(text) => Ok((name, Secret::from(text))),
        _ => Err(D::Error::custom(format!(
            "the variable {name} is no text: put it in quotes"
        ))),
    };
    table.into_iter().map(variable).collect()
}

impl Source for Settings {
    fn check(&self) -> Result<(), KeyError> {
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

    fn has_secrets(&self) -> bool {
        !self.environment.is_empty()
    }

    /// The command has them from elsewhere, and nobody here can take them back.
    fn falls_with_session(&self) -> bool {
        false
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.into())
    }

    async fn fetch(&self, of: &Request) -> Result<Fetched, FetchError> {
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
}

impl Settings {
    fn program(&self) -> String {
        self.command.first().cloned().unwrap_or_default()
    }

    fn command_for(&self, of: &Request) -> Command {
        let mut command = Command::new(self.program());
        command
            .args(&self.command[1..])
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .envs(
                self.environment
                    .iter()
                    .map(|(name, value)| (name, value.expose())),
            )
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

/// Reads what the command prints until it ends. Whoever it left behind with its pipes in hand is not waited for.
async fn watch(command: String, group: &mut Group) -> Result<Zeroizing<Vec<u8>>, FetchError> {
    let failed = |source| FetchError::Command {
        command: command.clone(),
        source,
    };
    let mut printed = Printed::of(group.child.stdout.take());
    let mut errors = Errors::of(group.child.stderr.take());
    let id = group.id;
    {
        let mut ended = pin!(ended(id));
        let reading = async {
            tokio::join!(printed.read(id), errors.read());
        };
        // Cancel-safe: what was read is kept, and what wasn't is still in the pipes.
        tokio::select! {
            ended = &mut ended => ended,
            () = reading => ended.await,
        }
        .map_err(failed)?;
    }
    kill(id);
    let status = group.reap().await.map_err(failed)?;
    printed.rest();
    errors.rest();
    if printed.bytes.len() > MAX_OUTPUT {
        return Err(FetchError::TooLong(MAX_OUTPUT));
    }
    if status.success() {
        return Ok(printed.bytes);
    }
    Err(FetchError::Failed {
        command,
        how: format!("ended with {status}"),
        stderr: escaped(&errors.kept, TOLD_ERRORS),
    })
}

/// What a command prints: as much as a credential can have, and a byte more, which is one too many.
struct Printed {
    pipe: Option<ChildStdout>,
    bytes: Zeroizing<Vec<u8>>,
}

impl Printed {
    fn of(pipe: Option<ChildStdout>) -> Self {
        Self {
            pipe,
            // Large enough from the beginning: a copy into a larger one would leave the secrets where they were.
            bytes: Zeroizing::new(Vec::with_capacity(MAX_OUTPUT + 1)),
        }
    }

    /// Reads until there is no more. A command of which that is too much is killed: it would go on for ever, and nobody
    /// reads it any more.
    async fn read(&mut self, group: Option<Pid>) {
        let Some(pipe) = &mut self.pipe else { return };
        while self.bytes.len() <= MAX_OUTPUT {
            let left = (MAX_OUTPUT + 1 - self.bytes.len()) as u64;
            // A pipe that breaks has ended.
            if !matches!((&mut *pipe).take(left).read_buf(&mut *self.bytes).await, Ok(1..)) {
                return;
            }
        }
        kill(group);
    }

    /// Takes what is in the pipe now.
    fn rest(&mut self) {
        let Some(pipe) = &self.pipe else { return };
        while self.bytes.len() <= MAX_OUTPUT {
            // The pipe doesn't block: an error says that there is nothing in it now.
            if !matches!(rustix::io::read(pipe, spare_capacity(&mut *self.bytes)), Ok(1..)) {
                return;
            }
        }
    }
}

/// What a command says on standard error: the end of it, however much it is.
struct Errors {
    pipe: Option<ChildStderr>,
    kept: Vec<u8>,
}

impl Errors {
    fn of(pipe: Option<ChildStderr>) -> Self {
        Self {
            pipe,
            kept: Vec::with_capacity(2 * KEPT_ERRORS),
        }
    }

    async fn read(&mut self) {
        let mut piece = [0; 1024];
        while let Some(pipe) = &mut self.pipe
            && let Ok(count @ 1..) = pipe.read(&mut piece).await
        {
            self.keep(&piece[..count]);
        }
    }

    /// Takes what is in the pipe now: at most what a pipe holds, since whoever was left behind may go on writing.
    fn rest(&mut self) {
        let mut piece = [0; 1024];
        for _ in 0..64 {
            let Some(pipe) = &self.pipe else { return };
            let Ok(count @ 1..) = rustix::io::read(pipe, &mut piece[..]) else {
                return;
            };
            self.keep(&piece[..count]);
        }
    }

    fn keep(&mut self, piece: &[u8]) {
        self.kept.extend_from_slice(piece);
        let over = self.kept.len().saturating_sub(KEPT_ERRORS);
        self.kept.drain(..over);
    }
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
