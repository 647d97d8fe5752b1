//! The channel to the lab's helper inside a guest, over the unix socket of a virtio-serial port.
//!
//! One task writes requests and one reads events and hands each to the command that it belongs to; both end
//! with the [`Control`] that owns them. When the guest goes, every command under way fails.

use anyhow::{Context, Result, bail, ensure};
use moorline_lab_guest::{CommandId, Ending, Event, ORDINARY_UID, Request};
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::wait;

/// How long [`Control::run`] waits for a command. What is to take longer is for [`Control::lines`].
pub const RUN_PATIENCE: Duration = Duration::from_mins(1);

/// Between two runs of a command that is waited for: an emulated guest has other things to do as well.
const BETWEEN_RUNS: Duration = Duration::from_millis(20);

/// A command line for the guest's `/bin/sh -c`, and who runs it. A plain string is run by root.
#[derive(Debug, Clone)]
pub struct Shell {
    command: String,
    uid: u32,
}

impl Shell {
    /// Run by root.
    pub fn root(command: impl Into<String>) -> Self {
        Self {
            command: command.into(),
            uid: 0,
        }
    }

    /// Run by the guest's ordinary user, with user and group id 1000.
    pub fn ordinary(command: impl Into<String>) -> Self {
        Self {
            command: command.into(),
            uid: ORDINARY_UID,
        }
    }
}

impl From<&str> for Shell {
    fn from(command: &str) -> Self {
        Self::root(command)
    }
}

impl From<String> for Shell {
    fn from(command: String) -> Self {
        Self::root(command)
    }
}

/// What a command left.
#[derive(Debug, Clone)]
pub struct Output {
    command: String,
    /// How it ended.
    pub ending: Ending,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether the command exited with 0.
    pub fn succeeded(&self) -> bool {
        self.ending == Ending::Code(0)
    }

    /// The standard output as text without the line end at its end.
    ///
    /// Fails unless the command exited with 0; the error says what it wrote.
    pub fn text(self) -> Result<String> {
        let stdout = String::from_utf8_lossy(&self.stdout);
        let stderr = String::from_utf8_lossy(&self.stderr);
        ensure!(
            self.succeeded(),
            "in the guest, `{}` ended with {:?}:\n{stdout}{stderr}",
            self.command,
            self.ending
        );
        Ok(stdout.trim_end_matches('\n').to_owned())
    }
}

/// A session with one guest's helper. Dropping it leaves what it started running, until the next session.
#[derive(Debug)]
pub struct Control {
    requests: UnboundedSender<Request>,
    commands: Commands,
    next: AtomicU64,
    boot_id: String,
    _tasks: JoinSet<()>,
}

impl Control {
    /// Connects to the socket that QEMU made, as soon as there is one, and waits for the guest's answer.
    ///
    /// What an earlier session left running is killed. Only one session at a time gets an answer: QEMU takes the
    /// next connection when the one before is closed. Fails when `patience` runs out; cancel-safe.
    pub async fn connect(socket: &Path, patience: Duration) -> Result<Self> {
        let deadline = Instant::now() + patience;
        let what = format!("QEMU's socket {}", socket.display());
        let stream = wait::until(&what, patience, async || UnixStream::connect(socket).await.ok()).await?;
        let greeting = timeout(deadline - Instant::now(), Self::greet(stream));
        greeting
            .await
            .with_context(|| format!("no answer from the guest at {} in time", socket.display()))?
    }

    async fn greet(stream: UnixStream) -> Result<Self> {
        let session = getrandom::u64().context("get random bytes")?;
        let (events, mut writer) = stream.into_split();
        let mut events = Events {
            lines: BufReader::new(events),
            line: String::new(),
        };
        write_request(&mut writer, &Request::Hello { session }).await?;
        let boot_id = loop {
            match events.next().await? {
                Some(Event::Hello {
                    session: answered,
                    boot_id,
                }) if answered == session => break boot_id,
                Some(_) => (),
                None => bail!("the guest is gone"),
            }
        };
        let (requests, queue) = unbounded_channel();
        let commands = Commands::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(write_requests(queue, writer));
        tasks.spawn(read_events(events, commands.clone()));
        // Late events of an earlier session name commands that can't be ours, since sessions are random.
        Ok(Self {
            requests,
            commands,
            next: AtomicU64::new(session),
            boot_id,
            _tasks: tasks,
        })
    }

    /// The guest kernel's name for this boot, as in `/proc/sys/kernel/random/boot_id`.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Runs a command to its end, which includes that of everything that holds its output open.
    ///
    /// However it ends is in the [`Output`]. Fails when the guest goes away or [`RUN_PATIENCE`] is over; then,
    /// and when the future is dropped, the command is killed. Any number of commands run at once.
    pub async fn run(&self, shell: impl Into<Shell>) -> Result<Output> {
        let command = self.start(shell.into())?;
        let what = command.line.clone();
        let finished = timeout(RUN_PATIENCE, command.finish()).await;
        finished.with_context(|| format!("in the guest, `{what}` did not end in time"))?
    }

    /// Starts a command whose output is read while it runs. It is killed when the answer is dropped.
    pub fn lines(&self, shell: impl Into<Shell>) -> Result<Lines> {
        Ok(Lines {
            command: self.start(shell.into())?,
            buffer: Vec::new(),
            stderr: Vec::new(),
        })
    }

    /// Runs a command again and again until it exits with 0, and answers with its standard output.
    ///
    /// Fails when `patience` runs out, with what the last run said, or when the guest goes away.
    pub async fn wait_for(&self, shell: impl Into<Shell>, patience: Duration) -> Result<String> {
        let shell = shell.into();
        let deadline = Instant::now() + patience;
        loop {
            let output = self.run(shell.clone()).await?;
            if output.succeeded() || Instant::now() >= deadline {
                return output.text();
            }
            sleep(BETWEEN_RUNS).await;
        }
    }

    fn start(&self, shell: Shell) -> Result<Command> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let events = self.commands.add(id);
        let Shell { command, uid } = shell;
        let request = Request::Run {
            id,
            command: command.clone(),
            uid,
        };
        self.requests.send(request).ok().context("the guest is gone")?;
        Ok(Command {
            id,
            line: command,
            events,
            requests: self.requests.clone(),
        })
    }
}

/// A command under way. Dropping it kills the command.
#[derive(Debug)]
struct Command {
    id: CommandId,
    line: String,
    events: UnboundedReceiver<Event>,
    requests: UnboundedSender<Request>,
}

impl Command {
    async fn next(&mut self) -> Result<Event> {
        let gone = || format!("the guest went away while it ran `{}`", self.line);
        self.events.recv().await.with_context(gone)
    }

    async fn finish(mut self) -> Result<Output> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match self.next().await? {
                Event::Stdout { data, .. } => stdout.extend(data),
                Event::Stderr { data, .. } => stderr.extend(data),
                Event::Ended { ending, .. } => {
                    return Ok(Output {
                        command: self.line.clone(),
                        ending,
                        stdout,
                        stderr,
                    });
                }
                Event::Hello { .. } => (),
            }
        }
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        // The guest passes over the name of a command that has ended, and a guest that is gone runs none.
        let _ = self.requests.send(Request::Kill { id: self.id });
    }
}

/// The standard output of a command that is running, line by line.
#[derive(Debug)]
pub struct Lines {
    command: Command,
    buffer: Vec<u8>,
    stderr: Vec<u8>,
}

impl Lines {
    /// The next line, without its end, or `None` when the command exited with 0.
    ///
    /// Fails when the command ended otherwise, with its standard error, or the guest went away. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(line) = self.take_line() {
                return Ok(Some(line));
            }
            match self.command.next().await? {
                Event::Stdout { data, .. } => self.buffer.extend(data),
                Event::Stderr { data, .. } => self.stderr.extend(data),
                Event::Ended { ending, .. } => return self.end(&ending),
                Event::Hello { .. } => (),
            }
        }
    }

    /// Reads on to the first line that is `wanted`.
    ///
    /// `what` completes the sentence "waited for ..." of the error when there is none within `patience` or
    /// before the end.
    pub async fn wait_for(
        &mut self,
        what: &str,
        patience: Duration,
        mut wanted: impl FnMut(&str) -> bool,
    ) -> Result<String> {
        let found = async {
            while let Some(line) = self.next().await? {
                if wanted(&line) {
                    return Ok(line);
                }
            }
            bail!("`{}` ended before there was {what}", self.command.line)
        };
        let in_time = timeout(patience, found).await;
        in_time.with_context(|| format!("waited {:.1} s in vain for {what}", patience.as_secs_f64()))?
    }

    fn take_line(&mut self) -> Option<String> {
        let end = self.buffer.iter().position(|&byte| byte == b'\n')?;
        let line: Vec<u8> = self.buffer.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line[..end]).into_owned())
    }

    /// What was written without a line end counts as the last line, once.
    fn end(&mut self, ending: &Ending) -> Result<Option<String>> {
        let stderr = String::from_utf8_lossy(&self.stderr);
        ensure!(
            *ending == Ending::Code(0),
            "in the guest, `{}` ended with {ending:?}:\n{stderr}",
            self.command.line
        );
        let rest = std::mem::take(&mut self.buffer);
        Ok((!rest.is_empty()).then(|| String::from_utf8_lossy(&rest).into_owned()))
    }
}

/// Where the events of each command under way go.
#[derive(Debug, Clone, Default)]
struct Commands {
    takers: Arc<Mutex<HashMap<CommandId, UnboundedSender<Event>>>>,
}

impl Commands {
    fn add(&self, id: CommandId) -> UnboundedReceiver<Event> {
        let (taker, events) = unbounded_channel();
        self.lock().insert(id, taker);
        events
    }

    /// Hands an event over. Nobody may be waiting for it any more, or it may be an earlier session's.
    fn hand_over(&self, event: Event) {
        let mut takers = self.lock();
        match &event {
            Event::Stdout { id, .. } | Event::Stderr { id, .. } => {
                takers.get(id).map(|taker| taker.send(event));
            }
            Event::Ended { id, .. } => {
                takers.remove(id).map(|taker| taker.send(event));
            }
            Event::Hello { .. } => (),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<CommandId, UnboundedSender<Event>>> {
        self.takers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The guest's side of the conversation.
#[derive(Debug)]
struct Events {
    lines: BufReader<OwnedReadHalf>,
    line: String,
}

impl Events {
    /// The next event, or `None` when QEMU is gone. A line that is none is the torn end of an earlier session.
    async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            self.line.clear();
            if self
                .lines
                .read_line(&mut self.line)
                .await
                .context("read from the guest")?
                == 0
            {
                return Ok(None);
            }
            if let Ok(event) = serde_json::from_str(&self.line) {
                return Ok(Some(event));
            }
        }
    }
}

async fn read_events(mut events: Events, commands: Commands) {
    while let Ok(Some(event)) = events.next().await {
        commands.hand_over(event);
    }
    // Whoever waits for an event learns that there will be none.
    commands.lock().clear();
}

async fn write_requests(mut queue: UnboundedReceiver<Request>, mut writer: OwnedWriteHalf) {
    while let Some(request) = queue.recv().await {
        if write_request(&mut writer, &request).await.is_err() {
            return;
        }
    }
}

async fn write_request(writer: &mut OwnedWriteHalf, request: &Request) -> Result<()> {
    let mut line = serde_json::to_vec(request).context("write a request as JSON")?;
    line.push(b'\n');
    writer.write_all(&line).await.context("write to the guest")
}
