//! Starting a process so that nothing that happens to the daemon happens to it.
//!
//! Where systemd runs the host, the process gets a scope of its own, or stopping the daemon's unit would end it; and
//! always a session of its own, so that no terminal's end reaches it. Its output goes to a file that is opened here,
//! which is also how a process that was started and not recorded is found ([`crate::vm::process::writing_to`]).

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::vm::process::Process;

/// How much of a log is kept; it may be more until the next look.
const MAX_LOG: u64 = 1 << 20;
/// How much of a log is read for its last line.
const TAIL: u64 = 4096;

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
            // What comes up before the daemon goes down after it. The other way round it would take the end of all VMs, as the
            // host goes down, for their own, and leave them off when the host is up again.
            words.extend(own_unit().map(|unit| format!("--property=Before={unit}")));
        }
        words.push("setsid".to_owned());
        words.extend(self.user.into_iter().flat_map(|user| as_user(user, self.group)));
        words
    }
}

/// The words that make whatever follows them run as a user without any rights but its own.
fn as_user(user: u32, group: Option<u32>) -> [String; 6] {
    let groups = match group {
        Some(group) => format!("--groups={group}"),
        None => "--clear-groups".to_owned(),
    };
    [
        "setpriv".to_owned(),
        "--no-new-privs".to_owned(),
        "--bounding-set=-all".to_owned(),
        groups,
        format!("--reuid={user}"),
        format!("--regid={user}"),
    ]
}

/// Whether a user that is in no other group can read a file. That takes a process of this user: there is more to it than
/// modes. Cancel-safe.
pub(super) async fn can_read(user: u32, file: &Path) -> io::Result<bool> {
    let [first, rest @ ..] = as_user(user, None);
    let mut command = tokio::process::Command::new(first);
    command.args(rest).args(["test", "-r"]).arg(file);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let status = command.kill_on_drop(true).status().await?;
    // Of test(1): 0 is yes and 1 is no; setpriv fails with others.
    match status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => Err(io::Error::other(format!("setpriv ended with {status}"))),
    }
}

/// As `sd_booted(3)` tells it; only root may make scopes of the system.
fn systemd_runs_the_host() -> bool {
    Path::new("/run/systemd/system").is_dir() && rustix::process::geteuid().is_root()
}

/// The service that this process is, as systemd calls it.
fn own_unit() -> Option<String> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    service_of(&groups).map(str::to_owned)
}

/// The same by the process's control groups, as `cgroups(7)` has them in `/proc/PID/cgroup`.
fn service_of(groups: &str) -> Option<&str> {
    let mut units = groups.lines().filter_map(|group| group.rsplit('/').next());
    units.find(|unit| unit.ends_with(".service"))
}

/// An empty log. It is only ever appended to, so that whoever has it open goes on at its new end when it was cut.
fn log_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.append(true).create(true).mode(0o600).open(path)?;
    file.set_len(0)?;
    Ok(file)
}

/// Empties a log that has grown beyond [`MAX_LOG`]; it is fine if there is none.
///
/// Its writer is not trusted and may write for as long as the VM lives, and no pipe could be drained while no daemon
/// runs.
pub(super) fn bound(log: &Path) -> io::Result<()> {
    let file = match OpenOptions::new().append(true).open(log) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() > MAX_LOG {
        file.set_len(0)?;
        writeln!(&file, "(what was here was more than {MAX_LOG} bytes)")?;
    }
    Ok(())
}

/// The last line of a log that says anything, cut to 300 characters, for an error.
pub(super) fn last_line(log: &Path) -> String {
    let text = tail(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    let shown: String = line.unwrap_or("it said nothing").chars().take(300).collect();
    shown.replace(char::is_control, " ")
}

/// The end of a log, [`TAIL`] bytes at most.
fn tail(log: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(log)?;
    let start = file.metadata()?.len().saturating_sub(TAIL);
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    // What is written meanwhile is not waited for.
    file.take(TAIL).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{MAX_LOG, TAIL, bound, can_read, last_line, log_file, service_of};
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_log_is_cut_under_the_hands_of_its_writer() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("qemu.log");
        bound(&log).unwrap();
        let mut writer = log_file(&log).unwrap();
        writer.write_all(b"a first line\n").unwrap();
        bound(&log).unwrap();
        assert_eq!(last_line(&log), "a first line");
        let chunk = vec![b'x'; usize::try_from(MAX_LOG).unwrap()];
        writer.write_all(&chunk).unwrap();
        bound(&log).unwrap();
        writer.write_all(b"a last line\n").unwrap();
        assert!(log.metadata().unwrap().len() < 200);
        assert_eq!(last_line(&log), "a last line");
    }

    #[test]
    fn the_last_line_is_found_without_reading_everything() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("qemu.log");
        let writer = log_file(&log).unwrap();
        // Terabytes that take no room: reading them all would take hours.
        writer.set_len(1 << 42).unwrap();
        writeln!(&writer, "\nthe end\u{7}").unwrap();
        assert_eq!(last_line(&log), "the end ");
        writer.set_len(0).unwrap();
        write!(&writer, "{}", "y".repeat(usize::try_from(TAIL).unwrap() + 1)).unwrap();
        assert_eq!(last_line(&log), "y".repeat(300));
        assert_eq!(last_line(&folder.path().join("none")), "it said nothing");
    }

    #[test]
    fn a_process_that_systemd_started_knows_its_service() {
        let service = "0::/system.slice/moorline-host.service\n";
        assert_eq!(service_of(service), Some("moorline-host.service"));
        let older = "2:cpu:/\n1:name=systemd:/system.slice/moorline-host.service\n0::/\n";
        assert_eq!(service_of(older), Some("moorline-host.service"));
        let shell = "0::/user.slice/user-0.slice/session-1.scope\n";
        assert_eq!(service_of(shell), None);
    }

    #[tokio::test]
    async fn what_a_user_can_read_is_known_without_asking_modes() {
        let own = rustix::process::geteuid();
        // Only root can become somebody else; everybody can become nobody else than who they are.
        let user = if own.is_root() { 2_000_000 } else { own.as_raw() };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kernel");
        std::fs::write(&file, "").unwrap();
        let set = |path: &std::path::Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set(&file, 0o444);
        set(folder.path(), 0o755);
        if own.is_root() {
            assert!(can_read(user, &file).await.unwrap());
            set(folder.path(), 0o700);
            assert!(!can_read(user, &file).await.unwrap());
        } else {
            can_read(user, &file).await.unwrap_err();
        }
    }
}
