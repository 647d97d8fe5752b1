//! Whether guests are executed by the processor or by translation.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::command::Engine;
use crate::vm::config::{Accel, Images, QemuConfig};

const KVM: &str = "/dev/kvm";

/// A kernel without anything to run gives up within a second or two where KVM works.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the configuration asks for, which for [`Accel::Auto`] takes a try; call it once. Cancel-safe.
pub(super) async fn choose(config: &QemuConfig, images: &Images) -> Engine {
    match config.accel {
        Accel::Kvm => Engine::Kvm,
        Accel::Tcg => Engine::Tcg,
        Accel::Auto => {
            let engine = find_out(config, images).await;
            tracing::info!(accel = engine.words().0, "decided how guests are executed");
            engine
        }
    }
}

/// The group that a QEMU must be in to open what executes its guest, if everybody else is kept out.
pub(super) fn group_of(engine: Engine) -> Option<u32> {
    match engine {
        Engine::Kvm => std::fs::metadata(KVM)
            .ok()
            .and_then(|device| needed_group(device.mode(), device.gid())),
        Engine::Tcg => None,
    }
}

fn needed_group(mode: u32, group: u32) -> Option<u32> {
    let open = |who: u32| mode & who == who;
    // The group of root reaches much more than this device, so no VM's user is put into it.
    (open(0o060) && !open(0o006) && group != 0).then_some(group)
}

async fn find_out(config: &QemuConfig, images: &Images) -> Engine {
    let usable = std::fs::File::options().read(true).write(true).open(KVM).is_ok();
    if !usable {
        return Engine::Tcg;
    }
    match images.values().find_map(|image| image.kernel.as_deref()) {
        // Without a kernel to try with, what the device promises has to do.
        None => Engine::Kvm,
        Some(kernel) if boots(config, kernel).await => Engine::Kvm,
        Some(_) => Engine::Tcg,
    }
}

/// Whether a kernel comes so far as to panic for want of a root file system, which restarts the machine and so ends
/// this QEMU. Where KVM doesn't work, it fails or hangs before that.
async fn boots(config: &QemuConfig, kernel: &Path) -> bool {
    let mut command = Command::new(&config.binary);
    command
        .args(["-machine", &format!("{},accel=kvm", config.machine)])
        .args(["-cpu", "host", "-m", "256M", "-nodefaults", "-no-user-config"])
        .args([
            "-display",
            "none",
            "-nic",
            "none",
            "-no-reboot",
            "-append",
            "panic=-1",
            "-kernel",
        ])
        .arg(kernel)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let ended = timeout(PATIENCE, command.status()).await;
    matches!(ended, Ok(Ok(status)) if status.success())
}

#[cfg(test)]
mod tests {
    use super::needed_group;

    #[test]
    fn a_group_is_needed_where_only_the_group_may() {
        assert_eq!(needed_group(0o660, 104), Some(104));
        assert_eq!(needed_group(0o666, 104), None, "everybody may");
        assert_eq!(needed_group(0o640, 104), None, "the group may only read");
        assert_eq!(needed_group(0o660, 0), None, "it is root's");
    }
}
