//! The VMs of a deployment's host: they outlive their daemon, so they are found by its records.

use std::path::Path;

/// The process ids of all VMs beneath the host's folder of them.
pub(super) fn processes(vms: &Path) -> Vec<i32> {
    let folders = std::fs::read_dir(vms).into_iter().flatten().flatten();
    let records = folders.map(|folder| folder.path().join("vm.json"));
    records.flat_map(|record| of_record(&record)).collect()
}

/// Kills them all.
pub(super) fn end(vms: &Path) {
    for pid in processes(vms) {
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            // One that is gone already is what is wanted.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// The process ids that a VM's record names and that are still those of its programs.
fn of_record(record: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(record).unwrap_or_default();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let life = &json["life"];
    let found = [&life["vmm"]["pid"], &life["vsock"]["process"]["pid"]];
    let pids = found
        .into_iter()
        .filter_map(serde_json::Value::as_i64)
        .filter_map(|pid| i32::try_from(pid).ok());
    pids.filter(|pid| is_a_vm(*pid)).collect()
}

fn is_a_vm(pid: i32) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
    let program = String::from_utf8_lossy(program);
    program.contains("qemu-system") || program.contains("vhost-device-vsock")
}
