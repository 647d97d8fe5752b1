//! Processes that outlive the daemon: started in a session of their own, found again by what can't be reused.
//!
//! A process id alone names another process sooner or later. Together with the moment at which the process
//! started and the host's boot it names one process for ever: that is its [`Identity`], and it is what is kept in
//! the state file. From then on the process is held by a descriptor, so that a signal can't go to another one.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};

use tokio::io::unix::AsyncFd;

use super::kernel;

/// Which process, as long as the host isn't booted anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its id.
    pub pid: i32,
    /// When it started, in clock ticks since the host's boot, as in field 22 of `/proc/PID/stat`.
    pub started: u64,
}

impl Identity {
    /// Whether the process that has the id now is this one.
    pub fn is_there(self) -> bool {
        let now = Pid::from_raw(self.pid).map(stat);
        matches!(now, Some(Ok(Some(stat))) if stat.started == self.started)
    }
}

#[cfg(test)]
impl Identity {
    /// The process that tests run in. Must be called within a runtime.
    pub(crate) fn own() -> Self {
        let id = std::process::id().try_into().unwrap();
        Process::with_id(id).unwrap().unwrap().identity()
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status.
    Exited(i32),
    /// This signal ended it.
    Killed(i32),
    /// Another process was its parent, and only that one was told.
    Unseen,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "ended with status {status}"),
            Self::Killed(signal) => write!(f, "was ended by signal {signal}"),
            Self::Unseen => f.write_str("ended"),
        }
    }
}

/// A process, held so that its id can't come to mean another one. Dropping this leaves the process alone.
#[derive(Debug)]
pub struct Process {
    identity: Identity,
    descriptor: AsyncFd<OwnedFd>,
    ending: Option<Exit>,
}

impl Process {
    /// Starts `command` without tying it to this process's life. One that ends at once is a process all the same, whose
    /// end [`Self::ended`] tells.
    ///
    /// Fails when it can't be started. Must be called within a runtime.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let mut child = command.spawn()?;
        Self::of_child(&child).inspect_err(|_| {
            // One that can't be held is not left to run or to lie there; it can't be that it doesn't end.
            let _ = child.kill();
            let _ = child.wait();
        })
    }

    /// Holds a child, which is reaped by its descriptor in [`Self::ended`], so that the id is its own until then.
    fn of_child(child: &Child) -> io::Result<Self> {
        let pid = Pid::from_child(child);
        let descriptor = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        let stat = stat(pid)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Self::new(pid, stat.started, descriptor)
    }

    /// The process with this identity, unless it has ended. Must be called within a runtime.
    pub fn find(identity: Identity) -> io::Result<Option<Self>> {
        let Some(pid) = Pid::from_raw(identity.pid) else {
            return Ok(None);
        };
        Ok(Self::hold(pid)?.filter(|process| process.identity == identity))
    }

    /// The process that has this id now, unless there is none. Must be called within a runtime.
    pub fn with_id(pid: i32) -> io::Result<Option<Self>> {
        Pid::from_raw(pid).map_or(Ok(None), Self::hold)
    }

    fn hold(pid: Pid) -> io::Result<Option<Self>> {
        let descriptor = match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(descriptor) => descriptor,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Read after the descriptor was opened: if the id was reused before that, both are of the new process.
        match stat(pid)? {
            Some(Stat {
                started,
                ended: false,
            }) => Self::new(pid, started, descriptor).map(Some),
            _ => Ok(None),
        }
    }

    fn new(pid: Pid, started: u64, descriptor: OwnedFd) -> io::Result<Self> {
        let pid = pid.as_raw_nonzero().get();
        Ok(Self {
            identity: Identity { pid, started },
            descriptor: kernel::readable(descriptor)?,
            ending: None,
        })
    }

    /// Which process this is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The user it runs as, unless it has ended.
    pub fn user(&self) -> io::Result<Option<u32>> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.identity.pid));
        // Looked for again after the reading: if the id was reused before that, the answer is another process's.
        if Self::find(self.identity)?.is_none() {
            return Ok(None);
        }
        let status = status?;
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        // The second of the four is the effective one (proc(5)).
        let effective = uids.and_then(|uids| uids.split_ascii_whitespace().nth(1)?.parse().ok());
        effective
            .map(Some)
            .ok_or_else(|| io::Error::other("its status is not as proc(5) describes it"))
    }

    /// Waits for its end. Cancel-safe; once it has ended, every call gives the same answer at once.
    pub async fn ended(&mut self) -> Exit {
        if let Some(ending) = self.ending {
            return ending;
        }
        // A descriptor of a process can't fail to be polled; if it did, there'd be nothing left to watch.
        let _readable = self.descriptor.readable().await;
        let ending = self.reap();
        self.ending = Some(ending);
        ending
    }

    /// Takes the ending from the kernel if this process is the parent, which also clears it away.
    fn reap(&self) -> Exit {
        use std::os::fd::AsFd;
        let of = WaitId::PidFd(self.descriptor.get_ref().as_fd());
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let Ok(Some(status)) = rustix::process::waitid(of, options) else {
            return Exit::Unseen;
        };
        let exited = status.exit_status().map(Exit::Exited);
        let killed = status.terminating_signal().map(Exit::Killed);
        exited.or(killed).unwrap_or(Exit::Unseen)
    }

    /// Ends it at once. One that has ended already is fine.
    pub fn kill(&self) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(self.descriptor.get_ref(), Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// What the kernel says of a process; nothing if it is gone.
fn stat(pid: Pid) -> io::Result<Option<Stat>> {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let stat = match std::fs::read_to_string(&path) {
        Ok(stat) => stat,
        // A process that ends while its file is read gives ESRCH.
        Err(error) if matches!(error.raw_os_error(), Some(2 | 3)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let stat = parse_stat(&stat);
    stat.map(Some)
        .ok_or_else(|| io::Error::other(format!("{path} is not as proc(5) describes it")))
}

/// What `/proc/PID/stat` says of a process, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    started: u64,
    /// It only waits for its parent to notice.
    ended: bool,
}

fn parse_stat(stat: &str) -> Option<Stat> {
    // The command in parentheses may hold spaces and parentheses itself; the last one ends it (proc(5)).
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    let ended = matches!(state, "Z" | "X");
    Some(Stat { started, ended })
}

/// The kernel's name for the host's boot: identities are good for one boot only.
pub fn boot_id() -> io::Result<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(id.trim().to_owned())
}

/// The processes whose standard output is one of these files; those that aren't there are nobody's.
///
/// The daemon opens a log for each process that it starts, so this finds one that was started and not recorded. It looks
/// at every process of the host, which takes a while and blocks the thread. Must be called within a runtime.
pub fn writing_to(logs: &[PathBuf]) -> io::Result<Vec<Process>> {
    let mut wanted = Vec::new();
    for log in logs {
        wanted.extend(file_id(log)?);
    }
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Processes of other users and those that end meanwhile can't be looked at, and aren't ours.
        let Ok(stdout) = rustix::fs::stat(format!("/proc/{pid}/fd/1")) else {
            continue;
        };
        if wanted.contains(&(stdout.st_dev, stdout.st_ino)) {
            found.extend(Process::with_id(pid)?);
        }
    }
    Ok(found)
}

/// Which file has this name, if there is one: its device and its inode.
fn file_id(path: &Path) -> io::Result<Option<(u64, u64)>> {
    let file = match rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => rustix::fs::fstat(&file)?,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(Some((file.st_dev, file.st_ino)))
}

#[cfg(test)]
mod tests {
    use super::{Exit, Identity, Process, Stat, parse_stat, writing_to};
    use rustix::process::{Pid, WaitId, WaitIdOptions};
    use std::fs::File;
    use std::process::{Command, Stdio};

    fn cat() -> (std::process::ChildStdin, Process) {
        let mut command = Command::new("cat");
        let (reader, writer) = std::io::pipe().unwrap();
        let process = Process::spawn(command.stdin(reader)).unwrap();
        drop(command);
        (
            std::process::ChildStdin::from(std::os::fd::OwnedFd::from(writer)),
            process,
        )
    }

    #[tokio::test]
    async fn a_process_is_found_again_until_it_ends() {
        let (stdin, mut process) = cat();
        let identity = process.identity();
        assert_eq!(Process::find(identity).unwrap().unwrap().identity(), identity);
        let reused = Identity {
            started: identity.started + 1,
            ..identity
        };
        assert!(
            Process::find(reused).unwrap().is_none(),
            "another process with the same id is not it"
        );
        drop(stdin);
        assert_eq!(process.ended().await, Exit::Exited(0));
        assert_eq!(process.ended().await, Exit::Exited(0));
        assert!(Process::find(identity).unwrap().is_none());
        process.kill().unwrap();
    }

    #[tokio::test]
    async fn a_killed_process_says_so() {
        let (_stdin, mut process) = cat();
        process.kill().unwrap();
        assert_eq!(process.ended().await, Exit::Killed(9));
    }

    #[tokio::test]
    async fn a_process_that_ended_at_once_still_says_how() {
        let mut child = Command::new("false").spawn().unwrap();
        let id = WaitId::Pid(Pid::from_child(&child));
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        rustix::process::waitid(id, options).unwrap();
        let mut process = Process::of_child(&child).unwrap();
        assert_eq!(process.ended().await, Exit::Exited(1));
        child.wait().unwrap_err();
    }

    #[tokio::test]
    async fn a_process_that_was_not_recorded_is_found_by_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let logs = [folder.path().join("another"), log.clone()];
        assert!(writing_to(&logs).unwrap().is_empty());
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = Command::new("cat");
        command
            .stdin(reader)
            .stdout(Stdio::from(File::create(&log).unwrap()));
        let mut process = Process::spawn(&mut command).unwrap();
        let found: Vec<_> = writing_to(&logs).unwrap().iter().map(Process::identity).collect();
        assert_eq!(found, [process.identity()]);
        drop((command, writer));
        process.ended().await;
        assert!(writing_to(&logs).unwrap().is_empty());
    }

    #[test]
    fn a_command_with_spaces_and_parentheses_hides_nothing() {
        let rest = "1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1000 1";
        let stat = |ended| {
            let started = 4242;
            Some(Stat { started, ended })
        };
        assert_eq!(parse_stat(&format!("7 (a) b (c)) S {rest}")), stat(false));
        assert_eq!(parse_stat(&format!("7 (cat) Z {rest}")), stat(true));
        assert_eq!(parse_stat("7 (cat) S 1 1"), None);
        assert_eq!(parse_stat(""), None);
    }
}
