//! A real agent that runs beside its host instead of in a guest.

use anyhow::{Context, Result, ensure};
use moorline_lab::deployment::{Deployment, PATIENCE};
use moorline_lab::process::{Running, finish, tied};
use moorline_lab::wait;
use moorline_shared::Revision;
use moorline_shared::agent::{EntryReading, Freshness, Listing};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// An agent, running.
#[derive(Debug)]
pub(crate) struct Agent {
    process: Running,
    caller: Caller,
    /// What it is started with, and where it says what it does.
    arguments: Vec<OsString>,
    log: PathBuf,
}

/// A program of the agent's machine that asks it.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    program: PathBuf,
    socket: PathBuf,
}

impl Caller {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tied(&self.program);
        command.args(arguments).arg("--socket").arg(&self.socket);
        command
    }

    /// What one of the agent's commands writes.
    pub(crate) async fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = finish(&mut self.command(arguments)).await?;
        Ok(output.trim_end_matches('\n').to_owned())
    }
}

impl Agent {
    /// Starts one that dials `link`, and waits until it has its data.
    pub(crate) async fn start(deployment: &Deployment, name: &str, link: PathBuf) -> Result<Self> {
        Self::start_with(deployment, name, link, &[]).await
    }

    /// The same with these options besides.
    pub(crate) async fn start_with(
        deployment: &Deployment,
        name: &str,
        link: PathBuf,
        options: &[&str],
    ) -> Result<Self> {
        let caller = Caller {
            program: deployment.programs().agent().await?,
            socket: deployment.folder().join(format!("{name}.agent.sock")),
        };
        let state = deployment.folder().join(format!("{name}.agent"));
        let link = format!("unix:{}", link.display());
        let mut arguments: Vec<OsString> = vec!["run".into(), "--link".into(), link.into()];
        arguments.extend(["--socket".into(), caller.socket.clone().into()]);
        arguments.extend(["--state".into(), state.into()]);
        arguments.extend(options.iter().map(OsString::from));
        let log = deployment.folder().join(format!("{name}.agent.log"));
        let agent = Self {
            process: launched(&caller, &arguments, &log)?,
            caller,
            arguments,
            log,
        };
        agent
            .until("its data", &["get", "meta/instance-id"], |_| true)
            .await?;
        Ok(agent)
    }

    /// Starts it again, without waiting for anything.
    pub(crate) fn launch(&mut self) -> Result<()> {
        self.process = launched(&self.caller, &self.arguments, &self.log)?;
        Ok(())
    }

    /// Kills it, as a crash would.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.process.kill().await
    }

    /// Its process id, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Who asks it.
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The line with which a program has one of its commands run.
    pub(crate) fn line(&self, arguments: &str) -> String {
        format!(
            "{} {arguments} --socket {}",
            self.caller.program.display(),
            self.caller.socket.display()
        )
    }

    /// What one of its commands writes.
    pub(crate) async fn ask(&self, arguments: &[&str]) -> Result<String> {
        let said = self.caller.ask(arguments).await;
        said.with_context(|| self.process.last_words())
    }

    /// The same, parsed.
    async fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let text = self.ask(arguments).await?;
        serde_json::from_str(&text).with_context(|| format!("the agent wrote: {text}"))
    }

    /// An entry, with how far it can be trusted.
    pub(crate) async fn entry(&self, path: &str) -> Result<EntryReading> {
        self.json(&["get", "--json", path]).await
    }

    /// Entries with their values.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Listing> {
        self.json(&["list", "--json", "--values", prefix]).await
    }

    /// Waits until one of its commands writes what is wanted.
    pub(crate) async fn until(
        &self,
        what: &str,
        arguments: &[&str],
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let look = async || self.ask(arguments).await.ok().filter(|text| wanted(text));
        wait::until(what, PATIENCE, look)
            .await
            .with_context(|| self.process.last_words())
    }

    /// Waits until an entry has this text.
    pub(crate) async fn reads(&self, path: &str, value: &str) -> Result<()> {
        let what = format!("'{value}' at {path}");
        self.until(&what, &["get", path], |text| text == value).await?;
        Ok(())
    }

    /// Waits until its mirror is kept in step with the master copy.
    pub(crate) async fn is_in_step(&self) -> Result<()> {
        let fresh = async || {
            let listing = self.list("").await.ok()?;
            (listing.freshness == Freshness::Fresh).then_some(())
        };
        let fresh = wait::until("the mirror to be fresh", PATIENCE, fresh).await;
        fresh.with_context(|| self.process.last_words())
    }

    /// Waits until it mirrors these entries and no others: their revisions and texts, by path.
    pub(crate) async fn mirrors(&self, wanted: &BTreeMap<String, (Revision, String)>) -> Result<()> {
        let mirrored = async || {
            let listing = self.list("").await.ok()?;
            let entries = listing.entries.into_iter().map(|entry| {
                let text = entry
                    .value
                    .as_ref()
                    .and_then(|value| value.text())
                    .unwrap_or_default();
                (entry.path.to_string(), (entry.revision, text.to_owned()))
            });
            (entries.collect::<BTreeMap<_, _>>() == *wanted).then_some(())
        };
        let mirrored = wait::until("the mirror to be the master's copy", PATIENCE, mirrored).await;
        mirrored.with_context(|| self.process.last_words())
    }

    /// Begins a watch, and waits until it has begun.
    pub(crate) async fn watch(&self, prefix: &str) -> Result<Watching> {
        let mut command = self.caller.command(&["watch", "--json", prefix]);
        let mut process = command.stdout(std::process::Stdio::piped()).spawn()?;
        let output = process.stdout.take().context("the command's output")?;
        let mut watching = Watching {
            lines: BufReader::new(output).lines(),
            _process: process,
        };
        watching
            .wait_for("its begin", |line| line.contains("bookmark"))
            .await?;
        Ok(watching)
    }
}

fn launched(caller: &Caller, arguments: &[OsString], log: &Path) -> Result<Running> {
    let mut command = tied(&caller.program);
    Running::start("moorline-agent", command.args(arguments), log.to_owned())
}

/// A watch under way, which ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Watching {
    lines: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Watching {
    /// Reads on to the first line that is wanted.
    pub(crate) async fn wait_for(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let found = async {
            loop {
                let line = self.lines.next_line().await?;
                let line = line.with_context(|| format!("the watch ended before there was {what}"))?;
                if wanted(&line) {
                    return Ok(line);
                }
            }
        };
        let found = timeout(PATIENCE, found).await;
        let line: Result<_> = found.with_context(|| format!("waited in vain for {what}"))?;
        let line = line?;
        ensure!(line.starts_with('{'), "no line of JSON: {line}");
        Ok(line)
    }
}
