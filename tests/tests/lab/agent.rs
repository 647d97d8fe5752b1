//! A real agent that runs beside its host instead of in a guest.

use anyhow::{Context, Result, ensure};
use moorline_lab::deployment::{Deployment, PATIENCE};
use moorline_lab::process::{Running, finish, tied};
use moorline_lab::wait;
use moorline_shared::agent::{EntryReading, Listing};
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// An agent, running.
#[derive(Debug)]
pub(crate) struct Agent {
    process: Running,
    program: PathBuf,
    socket: PathBuf,
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
        let program = deployment.programs().agent().await?;
        let socket = deployment.folder().join(format!("{name}.agent.sock"));
        let mut command = tied(&program);
        command
            .arg("run")
            .arg("--link")
            .arg(format!("unix:{}", link.display()))
            .arg("--socket")
            .arg(&socket)
            .arg("--state")
            .arg(deployment.folder().join(format!("{name}.agent")))
            .args(options);
        let log = deployment.folder().join(format!("{name}.agent.log"));
        let agent = Self {
            process: Running::start("moorline-agent", &mut command, log)?,
            program,
            socket,
        };
        agent
            .until("its data", &["get", "meta/instance-id"], |_| true)
            .await?;
        Ok(agent)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tied(&self.program);
        command.args(arguments).arg("--socket").arg(&self.socket);
        command
    }

    /// The line with which a program has one of its commands run.
    pub(crate) fn line(&self, arguments: &str) -> String {
        format!(
            "{} {arguments} --socket {}",
            self.program.display(),
            self.socket.display()
        )
    }

    /// What one of its commands writes.
    pub(crate) async fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = finish(&mut self.command(arguments)).await;
        let output = output.with_context(|| self.process.last_words())?;
        Ok(output.trim_end_matches('\n').to_owned())
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

    /// Begins a watch, and waits until it has begun.
    pub(crate) async fn watch(&self, prefix: &str) -> Result<Watching> {
        let mut command = self.command(&["watch", "--json", prefix]);
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
