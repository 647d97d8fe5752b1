//! Starts `lab-load` and understands what it says.

use super::hosts;
use super::programs::Programs;
use crate::process::{self, Running};
use crate::wait;
use anyhow::{Context as _, Result, bail};
use moorline_lab_load::plan::{Changes, Hostile, Load, Measured, READY, Round, Seen, Stood};
use serde::Serialize;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// The lab's own task of that name.
const HOSTS: &str = "hosts";
/// How long one that stays takes until it is ready: a thousand guests connect meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);

/// The program, and a folder for plans and logs.
#[derive(Clone, Debug)]
pub(super) struct Loader {
    program: PathBuf,
    folder: PathBuf,
}

impl Loader {
    /// A loader whose files lie in `folder`.
    pub(super) fn new(programs: &Programs, folder: &Path) -> Self {
        Self {
            program: programs.path("lab-load"),
            folder: folder.to_owned(),
        }
    }

    /// Puts servers under load.
    pub(super) async fn drive(&self, plan: &Load) -> Result<Measured> {
        let outcome = self.finish(moorline_lab_load::plan::DRIVE, plan).await?;
        serde_json::from_str(&outcome).context("understand what was measured")
    }

    /// Follows changes into a guest.
    pub(super) async fn changes(&self, plan: &Changes) -> Result<Seen> {
        let outcome = self.finish(moorline_lab_load::plan::CHANGES, plan).await?;
        serde_json::from_str(&outcome).context("understand how long changes took")
    }

    /// Puts honest guests under load while others attack.
    pub(super) async fn hostile(&self, plan: &Hostile) -> Result<Stood> {
        let outcome = self.finish(moorline_lab_load::plan::HOSTILE, plan).await?;
        serde_json::from_str(&outcome).context("understand how honest guests fared")
    }

    /// Has very many hosts at a control plane, by a command line for the lab itself.
    pub(super) async fn hosts(&self, command: Command, plan: &hosts::Plan) -> Result<hosts::Measured> {
        let outcome = self.finish_by(command, HOSTS, plan).await?;
        serde_json::from_str(&outcome).context("understand how hosts fared")
    }

    async fn finish(&self, task: &str, plan: &impl Serialize) -> Result<String> {
        self.finish_by(process::tied(&self.program), task, plan).await
    }

    async fn finish_by(&self, mut command: Command, task: &str, plan: &impl Serialize) -> Result<String> {
        self.prepare(&mut command, task, plan)?;
        let output = command.output().await.with_context(|| format!("run {task}"))?;
        if !output.status.success() {
            bail!("{task}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn prepare(&self, command: &mut Command, task: &str, plan: &impl Serialize) -> Result<()> {
        let file = self.folder.join(format!("{task}.json"));
        fs::write(&file, serde_json::to_vec(plan).context("write a plan")?).context("write a plan")?;
        command
            .arg(task)
            .stdin(Stdio::from(File::open(&file).context("open a plan")?));
        Ok(())
    }

    /// Starts a task that stays, from a command line for the program itself, and waits until it is ready.
    pub(super) async fn stay(
        &self,
        name: &'static str,
        mut command: Command,
        plan: &impl Serialize,
    ) -> Result<Running> {
        self.prepare(&mut command, name, plan)?;
        let log = self.folder.join(format!("{name}.log"));
        let mut running = Running::start(name, &mut command, log.clone())?;
        let ready = async || fs::read_to_string(&log).ok().filter(|text| text.contains(READY));
        // Cancel-safe: once one branch has ended, the task is ready or given up.
        tokio::select! {
            ready = wait::until("lab-load to be ready", PATIENCE, ready) => ready.with_context(|| running.last_words())?,
            ended = running.ended() => bail!("lab-load {name} ended with {}\n{}", ended?, running.last_words()),
        };
        Ok(running)
    }

    /// Where the program is.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }
}

/// The turns of the target with this name.
pub(super) fn turns<'m>(measured: &'m Measured, name: &str) -> Result<&'m [Round]> {
    measured
        .of(name)
        .with_context(|| format!("{name} was not measured"))
}

/// How many times as fast one was as the other.
pub(super) fn faster(one: &Round, other: &Round) -> f64 {
    one.rate() / other.rate()
}

/// Requests a second, turn by turn.
pub(super) fn rates(turns: &[Round]) -> Vec<f64> {
    turns.iter().map(Round::rate).collect()
}

/// What a request cost the server of its processor, in microseconds, turn by turn.
pub(super) fn processor(turns: &[Round]) -> Vec<f64> {
    turns.iter().map(Round::server_us).collect()
}
