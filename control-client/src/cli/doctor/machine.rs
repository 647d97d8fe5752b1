//! The kernel's devices, what the machine has, and what the daemon's process is allowed.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use moorline_shared::host::HostStatus;

use super::check::Check;
use super::settings::{Capacity, Settings};

/// How many vCPUs a core may be promised as before it is worth a word.
const MOST_VCPUS_PER_CORE: u64 = 8;
/// Descriptors that a daemon with guests needs at the least.
const LEAST_DESCRIPTORS: u64 = 16_384;

/// What VMs are made with: acceleration, vsock and the emulator.
pub(super) fn devices(settings: &Settings, checks: &mut Vec<Check>) {
    checks.push(kvm(&settings.qemu.accel));
    checks.push(vsock(settings));
    checks.push(emulator(settings));
}

/// Whether a device can be used by this user.
enum Device {
    Usable,
    Denied(std::io::Error),
    Absent,
}

fn device(path: &str) -> Device {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Device::Usable,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Device::Denied(error),
        Err(_) => Device::Absent,
    }
}

fn kvm(accel: &str) -> Check {
    const NAME: &str = "kvm";
    let advice =
        "switch virtualisation on in the firmware, and load the module: modprobe kvm_intel, or kvm_amd";
    match (device("/dev/kvm"), accel) {
        (_, "tcg") => Check::ok(NAME, "not asked for: qemu.accel is \"tcg\""),
        (Device::Usable, _) => Check::ok(NAME, "/dev/kvm can be used"),
        (Device::Denied(error), _) => Check::unknown(
            NAME,
            format!("/dev/kvm: {error}"),
            "run this as root, or as a member of the group kvm",
        ),
        (Device::Absent, "kvm") => Check::fail(NAME, "there is no /dev/kvm", advice),
        (Device::Absent, _) => {
            Check::warn(NAME, "there is no /dev/kvm: guests run many times slower", advice)
        }
    }
}

fn vsock(settings: &Settings) -> Check {
    const NAME: &str = "vsock";
    let by_process = settings.qemu.vsock == "vhost-user" || settings.link.vsock == "off";
    let program = &settings.qemu.vsock_device;
    let advice = "load the module: modprobe vhost_vsock";
    match device("/dev/vhost-vsock") {
        Device::Usable if !by_process => Check::ok(NAME, "/dev/vhost-vsock can be used"),
        Device::Denied(error) if !by_process => {
            Check::unknown(NAME, format!("/dev/vhost-vsock: {error}"), "run this as root")
        }
        Device::Absent if settings.qemu.vsock == "vhost" || settings.link.vsock == "on" => {
            Check::fail(NAME, "there is no /dev/vhost-vsock", advice)
        }
        _ if finds(program) => Check::ok(NAME, format!("by a process for each VM: {}", program.display())),
        _ if by_process => Check::fail(
            NAME,
            format!("{} is not there", program.display()),
            "install it, or name it in qemu.vsock_device",
        ),
        _ => Check::warn(
            NAME,
            format!("there is neither /dev/vhost-vsock nor {}", program.display()),
            format!("{advice}; VMs of others are served without it"),
        ),
    }
}

/// Whether a program is where its path says, or in one of the folders of `PATH`.
fn finds(program: &Path) -> bool {
    if program.components().count() > 1 {
        return program.is_file();
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(program).is_file())
}

fn emulator(settings: &Settings) -> Check {
    const NAME: &str = "qemu";
    let binary = settings.qemu.binary.display();
    match Command::new(&settings.qemu.binary).arg("--version").output() {
        Ok(output) if output.status.success() => {
            let said = String::from_utf8_lossy(&output.stdout);
            Check::ok(NAME, said.lines().next().unwrap_or_default().to_owned())
        }
        Ok(output) => {
            let found = format!("{binary} --version ended with {}", output.status);
            Check::fail(NAME, found, "install it again, or name another in qemu.binary")
        }
        Err(error) if settings.images.is_empty() => {
            let advice = "none is needed while there are no images: VMs of others can be attached";
            Check::warn(NAME, format!("{binary}: {error}"), advice)
        }
        Err(error) => {
            let advice = "install it (apt install qemu-system-x86), or name it in qemu.binary";
            Check::fail(NAME, format!("{binary}: {error}"), advice)
        }
    }
}

/// Whether the machine has what the configuration gives to instances.
pub(super) fn capacity(settings: &Settings, checks: &mut Vec<Check>) {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let Some(memory) = memory_mib() else {
        checks.push(Check::unknown(
            "capacity",
            "/proc/meminfo can't be read",
            "mount /proc",
        ));
        return;
    };
    checks.push(fits(settings.capacity, cores, memory));
}

fn memory_mib() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1_024)
}

fn fits(given: Capacity, cores: u64, memory_mib: u64) -> Check {
    const NAME: &str = "capacity";
    let found = format!(
        "{} vCPUs and {} MiB of {cores} cores and {memory_mib} MiB",
        given.vcpus, given.memory_mib
    );
    if given.memory_mib > memory_mib {
        let advice =
            "lower capacity.memory_mib: instances would be placed here that the machine has no memory for";
        return Check::fail(NAME, found, advice);
    }
    if given.memory_mib > memory_mib / 10 * 9 {
        let advice = "lower capacity.memory_mib: leave some for the host, QEMU itself included";
        return Check::warn(NAME, found, advice);
    }
    if given.vcpus > cores * MOST_VCPUS_PER_CORE {
        return Check::warn(
            NAME,
            found,
            "lower capacity.vcpus, unless the guests are idle most of the time",
        );
    }
    Check::ok(NAME, found)
}

/// What the daemon's process is allowed.
pub(super) fn limits(daemon: Option<&HostStatus>, checks: &mut Vec<Check>) {
    let Some(daemon) = daemon else {
        return;
    };
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid));
    match limits {
        Ok(limits) => checks.extend(judged(&limits)),
        Err(error) => {
            let found = format!("/proc/{}/limits: {error}", daemon.pid);
            checks.push(Check::unknown("descriptors", found, "run this as root"));
        }
    }
}

/// Judges what `/proc/PID/limits` says.
fn judged(limits: &str) -> [Check; 2] {
    let soft = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next())
            .unwrap_or("unknown")
            .to_owned()
    };
    let open = soft("Max open files");
    let descriptors = match open.parse::<u64>() {
        Ok(most) if most < LEAST_DESCRIPTORS => Check::warn(
            "descriptors",
            format!("the daemon may have {most} open; each guest takes two"),
            "raise LimitNOFILE in its unit (systemctl edit moorline-host)",
        ),
        _ => Check::ok("descriptors", format!("the daemon may have {open} open")),
    };
    let core = soft("Max core file size");
    let cores = if core == "0" {
        Check::ok("core files", "the daemon writes none")
    } else {
        Check::fail(
            "core files",
            format!("the daemon may write one of {core} bytes, with guests' secrets in it"),
            "set LimitCORE=0 in its unit, and start it again",
        )
    };
    [descriptors, cores]
}

#[cfg(test)]
mod tests {
    use super::{Capacity, finds, fits, judged};
    use crate::cli::doctor::check::Verdict;
    use std::path::Path;

    #[test]
    fn capacity_is_held_against_the_machine() {
        for (vcpus, memory_mib, verdict) in [
            (4, 4_000, Verdict::Ok),
            (4, 9_500, Verdict::Warn),
            (4, 20_000, Verdict::Fail),
            (400, 4_000, Verdict::Warn),
        ] {
            let check = fits(Capacity { vcpus, memory_mib }, 4, 10_000);
            assert_eq!(check.verdict, verdict, "{check:?}");
        }
    }

    #[test]
    fn the_daemons_limits_are_judged() {
        let limits = |open: &str, core: &str| {
            format!(
                "Limit  Soft Limit\nMax core file size  {core}  {core} bytes\nMax open files  {open}  {open} files\n"
            )
        };
        let verdicts = |text: &str| judged(text).map(|check| check.verdict);
        assert_eq!(verdicts(&limits("1048576", "0")), [Verdict::Ok, Verdict::Ok]);
        assert_eq!(
            verdicts(&limits("1024", "unlimited")),
            [Verdict::Warn, Verdict::Fail]
        );
    }

    #[test]
    fn a_program_is_looked_for_where_the_daemon_looks() {
        assert!(finds(Path::new("sh")) && finds(Path::new("/bin/sh")));
        assert!(!finds(Path::new("no-such-program")) && !finds(Path::new("/no/such/program")));
    }
}
