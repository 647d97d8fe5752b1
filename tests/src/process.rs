//! Child processes that end with the lab, and commands whose failure explains itself.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};

/// How much of a log an error shows.
const LINES_SHOWN: usize = 30;

/// A command line for a process that dies when the thread that starts it does, however that happens.
///
/// Start it from the thread that runs the test, never from one of tokio's blocking threads: those end when they
/// were idle for a while.
pub fn tied(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .kill_on_drop(true)
        .stdin(Stdio::null());
    command
}

/// Runs a command to its end and answers with its standard output.
///
/// Fails when it can't be started or exits with anything but 0; the error then ends with what it said last.
pub async fn finish(command: &mut Command) -> Result<String> {
    finish_reading(command, Stdio::null()).await
}

/// The same for a command that reads this from its standard input.
pub async fn finish_reading(command: &mut Command, stdin: impl Into<Stdio>) -> Result<String> {
    let shown = show(command);
    let output = command
        .stdin(stdin)
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("run `{shown}`"))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let said = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
        bail!("`{shown}` ended with {}:\n{}", output.status, last_lines(&said));
    }
    Ok(stdout.into_owned())
}

/// A process that runs until it is told to end, with its output in a file; dropping it kills it by its id.
#[derive(Debug)]
pub struct Running {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts `command`, which should come from [`tied`]; `log` takes what it says.
    pub fn start(name: &'static str, command: &mut Command, log: PathBuf) -> Result<Self> {
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let errors = file
            .try_clone()
            .with_context(|| format!("share {}", log.display()))?;
        let child = command
            .kill_on_drop(true)
            .stdout(file)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("start {name}: `{}`", show(command)))?;
        Ok(Self { name, child, log })
    }

    /// Its process id, as long as it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Its end, whenever that comes. Cancel-safe.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        self.child
            .wait()
            .await
            .with_context(|| format!("wait for {}", self.name))
    }

    /// Kills it and waits until it is gone; a process that has ended already is fine too.
    pub async fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .await
            .with_context(|| format!("kill {}", self.name))
    }

    /// Ends it as one that finds itself broken ends, of which the kernel writes a core if it may.
    pub async fn abort(&mut self) -> Result<ExitStatus> {
        let pid = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.with_context(|| format!("{} doesn't run", self.name))?;
        kill_process(pid, Signal::ABORT).with_context(|| format!("abort {}", self.name))?;
        self.ended().await
    }

    /// All that it has said, as far as that is text.
    pub fn said(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last lines that it said, for an error.
    pub fn last_words(&self) -> String {
        format!("{} said last:\n{}", self.name, last_lines_of(&self.log))
    }
}

impl Drop for Running {
    /// Blocks for the moment that the kernel needs to clear a killed process away: one that nobody waited for
    /// would stay in the process table, and its files in use.
    fn drop(&mut self) {
        let killed = self.child.start_kill();
        while killed.is_ok() && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A process that does nothing until this is dropped.
#[derive(Debug)]
pub struct Frozen(Pid);

impl Frozen {
    /// Stops the process with this id, and waits until the kernel has stopped all of it.
    pub fn new(pid: u32) -> Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.context("this is no process id")?;
        kill_process(pid, Signal::STOP).context("stop a process")?;
        let frozen = Self(pid);
        while !frozen.is_complete()? {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(frozen)
    }

    /// Whether every thread has stopped. The signal reaches them one after the other.
    fn is_complete(&self) -> Result<bool> {
        let tasks = format!("/proc/{}/task", self.0.as_raw_nonzero());
        for task in std::fs::read_dir(tasks).context("list a process's threads")? {
            let stat = task.context("list a process's threads")?.path().join("stat");
            let stat = std::fs::read_to_string(stat).context("look at a thread")?;
            if !stat
                .rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with('T'))
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // A process that is gone needs nothing.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// What a process has in memory, by a line of its `smaps_rollup` such as `Rss:`, or `Anonymous:` for what no file stands
/// behind; in bytes.
pub fn memory(pid: u32, line: &str) -> Result<u64> {
    let text =
        std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("look at a process's memory")?;
    let found = text.lines().find_map(|found| found.strip_prefix(line));
    let kib = found.and_then(|found| found.trim().strip_suffix(" kB"));
    let kib: u64 = kib.context("smaps_rollup has no such line")?.trim().parse()?;
    Ok(kib * 1_024)
}

/// The last lines of a file, or why it can't be read.
pub(crate) fn last_lines_of(file: &Path) -> String {
    match std::fs::read(file) {
        Ok(bytes) => last_lines(&String::from_utf8_lossy(&bytes)),
        Err(error) => format!("({}: {error})", file.display()),
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
}

fn show(command: &Command) -> String {
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
