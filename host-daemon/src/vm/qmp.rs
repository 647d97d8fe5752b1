//! A small client of QEMU's machine protocol, over a unix socket.
//!
//! The guest may have got hold of its QEMU, so QEMU is not trusted: a line has a bound, every exchange a deadline, and
//! whatever comes unasked is either an [`Event`] or passed over. It names its own socket, so who listens there is
//! looked at before anything is said. After any error the connection is of no more use; drop it and make another, QEMU
//! takes one at a time. (QEMU's `docs/interop/qmp-spec.rst` is the specification.)

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use super::process::Identity;

/// Longer than any line of the exchanges made here; a longer one ends the connection.
const MAX_LINE: usize = 64 * 1024;
/// More events than come between a command and its reply; with more the connection ends.
const MAX_EVENTS: usize = 256;
/// More than a VM ever has to say in a second; with more the connection ends, so that a QEMU that doesn't stop talking
/// keeps the daemon busy with itself for a moment only.
const MAX_BYTES_A_SECOND: usize = 1 << 20;
/// For one exchange: QEMU answers at once unless it hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// What happened in a VM without having been asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The guest or its VMM ends; with `-action shutdown=pause` the VMM waits for `quit`.
    Shutdown {
        /// Why, in QEMU's word, such as `guest-shutdown`.
        reason: String,
    },
    /// The guest restarted within the same life.
    Reset,
    /// The guest was asked to power down.
    PowerDown,
    /// The virtual CPUs stand still.
    Stop,
    /// The virtual CPUs run again.
    Resume,
}

/// What a VM is doing, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// The guest ended, and its VMM waits for `quit`.
    Shutdown,
    /// The guest, or all of the VM, stands still because of an error or a panic.
    Broken,
    /// Anything else, above all running.
    Alive,
}

/// Why an exchange with QEMU failed.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The socket can't be used.
    #[error("can't {what} QEMU's socket {}", path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// Which socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What has the socket's name is another process's.
    #[error("{} is not listened on by the VM's QEMU", path.display())]
    Stranger {
        /// Which socket.
        path: PathBuf,
    },
    /// QEMU closed the connection.
    #[error("QEMU closed its socket {}", path.display())]
    Closed {
        /// Which socket.
        path: PathBuf,
    },
    /// QEMU didn't answer in time.
    #[error("QEMU didn't answer {command} within {PATIENCE:?}")]
    Late {
        /// What it was asked.
        command: &'static str,
    },
    /// QEMU said something that the protocol doesn't provide for.
    #[error("QEMU's socket {} doesn't speak its machine protocol: {why}", path.display())]
    Protocol {
        /// Which socket.
        path: PathBuf,
        /// What was wrong.
        why: String,
    },
    /// QEMU refused a command.
    #[error("QEMU refused {command}: {why}")]
    Refused {
        /// The command.
        command: &'static str,
        /// QEMU's words, cut to 200 characters.
        why: String,
    },
}

/// A line from QEMU: which of the fields are there says what it is.
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    event: Option<String>,
    data: Option<Value>,
    #[serde(rename = "return")]
    answer: Option<Value>,
    error: Option<Refusal>,
    id: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    desc: String,
}

/// A connection to a VM's QEMU, in command mode.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    path: PathBuf,
    input: Vec<u8>,
    events: VecDeque<Event>,
    next_id: u64,
    second: Second,
}

/// How much was read since when.
#[derive(Debug)]
struct Second {
    since: Instant,
    bytes: usize,
}

impl Second {
    /// Counts, and says whether it is still little enough.
    fn takes(&mut self, bytes: usize) -> bool {
        if self.since.elapsed() >= Duration::from_secs(1) {
            self.since = Instant::now();
            self.bytes = 0;
        }
        self.bytes += bytes;
        self.bytes <= MAX_BYTES_A_SECOND
    }
}

impl Qmp {
    /// Connects to this QEMU and agrees on the protocol. Fails at the latest after ten seconds; cancel-safe.
    pub async fn connect(path: &Path, vmm: Identity) -> Result<Self, QmpError> {
        let (stream, listener) = dial(path).await.map_err(|source| QmpError::Io {
            what: "connect to",
            path: path.to_owned(),
            source,
        })?;
        if listener != Some(vmm.pid) || !vmm.is_there() {
            let path = path.to_owned();
            return Err(QmpError::Stranger { path });
        }
        let mut qmp = Self {
            stream,
            path: path.to_owned(),
            input: Vec::new(),
            events: VecDeque::new(),
            next_id: 1,
            second: Second {
                since: Instant::now(),
                bytes: 0,
            },
        };
        let greeting = timeout(PATIENCE, qmp.line()).await;
        let greeting = greeting.map_err(|_| QmpError::Late {
            command: "the connection",
        })??;
        if greeting.greeting.is_none() {
            return Err(qmp.protocol("its first line is no greeting"));
        }
        qmp.execute("qmp_capabilities").await?;
        Ok(qmp)
    }

    /// What the VM is doing.
    pub async fn status(&mut self) -> Result<RunState, QmpError> {
        let answer = self.execute("query-status").await?;
        match answer.get("status").and_then(Value::as_str) {
            Some("shutdown") => Ok(RunState::Shutdown),
            Some("internal-error" | "io-error" | "guest-panicked") => Ok(RunState::Broken),
            Some(_) => Ok(RunState::Alive),
            None => Err(self.protocol("query-status was answered without a status")),
        }
    }

    /// Presses the guest's power button.
    pub async fn power_down(&mut self) -> Result<(), QmpError> {
        self.execute("system_powerdown").await.map(drop)
    }

    /// Ends the VMM. Its process ends soon after the answer.
    pub async fn quit(&mut self) -> Result<(), QmpError> {
        self.execute("quit").await.map(drop)
    }

    /// The next event, of those that [`Event`] names. Cancel-safe.
    pub async fn event(&mut self) -> Result<Event, QmpError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let line = self.line().await?;
            self.events.extend(event_of(line));
        }
    }

    async fn execute(&mut self, command: &'static str) -> Result<Value, QmpError> {
        let exchange = timeout(PATIENCE, self.exchange(command)).await;
        exchange.unwrap_or(Err(QmpError::Late { command }))
    }

    async fn exchange(&mut self, command: &'static str) -> Result<Value, QmpError> {
        let id = self.next_id;
        self.next_id += 1;
        let request = format!("{}\n", json!({"execute": command, "id": id}));
        let written = self.stream.write_all(request.as_bytes()).await;
        written.map_err(|source| self.io("write to", source))?;
        loop {
            let line = self.line().await?;
            match line {
                Line {
                    id: Some(of),
                    error: Some(refusal),
                    ..
                } if of == id => {
                    let why = refusal.desc.chars().take(200).collect();
                    return Err(QmpError::Refused { command, why });
                }
                Line {
                    id: Some(of),
                    answer: Some(answer),
                    ..
                } if of == id => return Ok(answer),
                other => self.events.extend(event_of(other)),
            }
            if self.events.len() > MAX_EVENTS {
                return Err(self.protocol("it floods its reader with events"));
            }
        }
    }

    /// The next whole line. Cancel-safe: what was read stays in `input`.
    async fn line(&mut self) -> Result<Line, QmpError> {
        loop {
            if let Some(end) = self.input.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|error| self.protocol(&error.to_string()));
            }
            if self.input.len() >= MAX_LINE {
                return Err(self.protocol("a line is longer than 64 KiB"));
            }
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) => {
                    return Err(QmpError::Closed {
                        path: self.path.clone(),
                    });
                }
                Ok(bytes) if self.second.takes(bytes) => (),
                Ok(_) => return Err(self.protocol("it doesn't stop talking")),
                Err(source) => return Err(self.io("read from", source)),
            }
        }
    }

    fn io(&self, what: &'static str, source: io::Error) -> QmpError {
        QmpError::Io {
            what,
            path: self.path.clone(),
            source,
        }
    }

    fn protocol(&self, why: &str) -> QmpError {
        QmpError::Protocol {
            path: self.path.clone(),
            why: why.to_owned(),
        }
    }
}

/// A connection to the socket of this name, and the id of the process that began to listen there.
///
/// The socket's folder is the VMM's user's, and the daemon can go where that can't: a link to another VM's socket is not
/// followed.
async fn dial(path: &Path) -> io::Result<(UnixStream, Option<i32>)> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let socket = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    // An address takes no descriptor; this path is the same.
    let held = format!("/proc/self/fd/{}", socket.as_raw_fd());
    let stream = UnixStream::connect(held).await?;
    let listener = stream.peer_cred()?.pid();
    Ok((stream, listener))
}

fn event_of(line: Line) -> Option<Event> {
    match line.event?.as_str() {
        "SHUTDOWN" => {
            let reason = line.data.as_ref().and_then(|data| data.get("reason")?.as_str());
            let reason = reason.unwrap_or("unknown").chars().take(64).collect();
            Some(Event::Shutdown { reason })
        }
        "RESET" => Some(Event::Reset),
        "POWERDOWN" => Some(Event::PowerDown),
        "STOP" => Some(Event::Stop),
        "RESUME" => Some(Event::Resume),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
