//! Starting a process so that nothing that happens to the daemon happens to it.
//!
//! Where systemd runs the host, the process gets a scope of its own, or stopping the daemon's unit would end it; and
//! always a session of its own, so that no terminal's end reaches it. Its output goes to a file that is opened here,
//! which is also how a process that was started and not recorded is found ([`crate::vm::process::writing_to`]).

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::vm::process::Process;

/// What to start, and as whom.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    /// The program: a path or a name.
    pub(super) program: &'a Path,
    /// The user it becomes, with a group of the same number; none for the daemon's own.
    pub(super) user: Option<u32>,
    /// A group that this user is in beside its own.
    pub(super) group: Option<u32>,
    /// The name of its scope.
    pub(super) scope: String,
    /// Where it works.
    pub(super) folder: &'a Path,
    /// Where its output goes.
    pub(super) log: &'a Path,
}

impl Launch<'_> {
    /// Starts it. It gets no environment but `PATH`: what is in the daemon's is none of its business.
    ///
    /// That the program can't be executed shows as an early end, with the reason in the log.
    pub(super) fn start<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        stdin: Stdio,
    ) -> io::Result<Process> {
        let mut words = self.wrappers().into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).arg(self.program).args(arguments);
        let log = log_file(self.log)?;
        command.stdin(stdin).stdout(log.try_clone()?).stderr(log);
        command.env_clear().current_dir(self.folder);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        Process::spawn(&mut command)
    }

    /// The programs that each do one thing and then become the next, so that the process id stays.
    fn wrappers(&self) -> Vec<String> {
        let mut words = Vec::new();
        if systemd_runs_the_host() {
            let scope = format!("--unit={}", self.scope);
            let call = [
                "systemd-run",
                "--scope",
                "--quiet",
                "--collect",
                "--slice=moorline.slice",
                &scope,
            ];
            words.extend(call.map(str::to_owned));
        }
        words.push("setsid".to_owned());
        if let Some(user) = self.user {
            let call = ["setpriv", "--no-new-privs", "--bounding-set=-all"];
            words.extend(call.map(str::to_owned));
            words.push(match self.group {
                Some(group) => format!("--groups={group}"),
                None => "--clear-groups".to_owned(),
            });
            words.extend([format!("--reuid={user}"), format!("--regid={user}")]);
        }
        words
    }
}

/// As `sd_booted(3)` tells it; only root may make scopes of the system.
fn systemd_runs_the_host() -> bool {
    Path::new("/run/systemd/system").is_dir() && rustix::process::geteuid().is_root()
}

fn log_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)
}

/// The last line of a log that says anything, cut to 300 characters, for an error.
pub(super) fn last_line(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    let shown: String = line.unwrap_or("it said nothing").chars().take(300).collect();
    shown.replace(char::is_control, " ")
}
