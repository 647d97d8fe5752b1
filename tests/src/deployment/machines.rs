//! The VMs of a deployment's host. They outlive their daemon, so they are found without it: each writes its output to a
//! log in its own folder, from its first moment on and before any record names it.

use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// The process ids of all VMs, and of whatever else the daemon runs for them, beneath the host's folder of them.
pub(super) fn processes(vms: &Path) -> Vec<i32> {
    let vms = as_the_kernel_says(vms);
    running(|process| writes_beneath(process, &vms))
}

/// Kills them all, and waits until they are gone.
///
/// The daemon must be gone already. What it was about to start when it was killed is still a copy of it, by its
/// command line; that counts too.
pub(super) fn end(vms: &Path, daemons_config: &Path) {
    let deadline = Instant::now() + PATIENCE;
    let vms = as_the_kernel_says(vms);
    let ours = |process: &Path| writes_beneath(process, &vms) || was_given(process, daemons_config);
    loop {
        let found = running(ours);
        for pid in found.iter().copied().filter_map(Pid::from_raw) {
            // One that is gone already is what is wanted.
            let _ = kill_process(pid, Signal::KILL);
        }
        if found.is_empty() || Instant::now() >= deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The folder without symbolic links. One that isn't there has no files that anybody could write to.
fn as_the_kernel_says(folder: &Path) -> PathBuf {
    folder.canonicalize().unwrap_or_else(|_| folder.to_owned())
}

/// The processes whose folder in `/proc` is what `wanted` looks for. Those that ended and that nobody has waited for
/// have neither files nor a command line.
fn running(wanted: impl Fn(&Path) -> bool) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pid = |folder: PathBuf| folder.file_name()?.to_str()?.parse().ok();
    processes
        .map(|process| process.path())
        .filter(|folder| wanted(folder))
        .filter_map(pid)
        .collect()
}

/// Whether it writes its output to a file beneath a folder, even where the file is removed by now.
fn writes_beneath(process: &Path, folder: &Path) -> bool {
    std::fs::read_link(process.join("fd/1")).is_ok_and(|output| output.starts_with(folder))
}

/// Whether one of its arguments is this file.
fn was_given(process: &Path, file: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let arguments = std::fs::read(process.join("cmdline")).unwrap_or_default();
    arguments
        .split(|byte| *byte == 0)
        .any(|argument| argument == file.as_os_str().as_bytes())
}
