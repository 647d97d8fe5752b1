//! Instances whose VMs an earlier daemon left running, with stand-ins for their processes.

use super::{Instances, Supervisor, Wanted};
use crate::config::{CacheConfig, LinkConfig};
use crate::link::Shards;
use crate::uplink::Reports;
use crate::vm::config::Tables;
use crate::vm::file::FileError;
use crate::vm::process::{Process, boot_id};
use crate::vm::record::{Life, Processes, Reach, Record, Vsock};
use moorline_shared::InstanceId;
use moorline_shared::api::instances::InstanceState;
use moorline_shared::host::VmStatus;
use moorline_shared::secret::SecretKey;
use std::io::PipeWriter;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const INSTANCE: InstanceId = InstanceId::from_bytes([7; 16]);
const INCARNATION: u64 = 3;

/// What a daemon that starts on this state is made of.
fn supervisor(state: &Path, shards: &Shards) -> Result<Supervisor, FileError> {
    let (reports, _reported) = Reports::channel();
    Supervisor::new(&Tables::default(), state, shards.handle().clone(), reports)
}

/// A host on which an earlier daemon left a VM.
struct Host {
    instances: Instances,
    shards: Shards,
    vmm: Process,
    device: Process,
    folder: tempfile::TempDir,
    /// What stands in for a QEMU and its vsock device runs until it is killed, or this test ends with its pipe.
    _stdin: PipeWriter,
}

impl Host {
    /// A VM with a vsock device of its own.
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (asks, _) = mpsc::channel(1);
        let shards = Shards::start(&LinkConfig::default(), &CacheConfig::default(), None, &asks).unwrap();
        let supervisor = supervisor(folder.path(), &shards);
        let (reader, writer) = std::io::pipe().unwrap();
        let [vmm, device] = [(); 2].map(|()| {
            let input = reader.try_clone().unwrap();
            Process::spawn(Command::new("cat").stdin(input).stdout(Stdio::null())).unwrap()
        });
        let host = Self {
            instances: supervisor.unwrap().instances,
            shards,
            vmm,
            device,
            folder,
            _stdin: writer,
        };
        let records = &host.instances.tools.records;
        records.prepare(INSTANCE, Reach::Daemon).unwrap();
        let key = SecretKey::from([7; 32]);
        records.keep_link_key(INSTANCE, INCARNATION, key).await.unwrap();
        let process = host.device.identity();
        host.record(Vsock::Process { process }).await;
        host
    }

    /// What the earlier daemon recorded.
    async fn record(&self, vsock: Vsock) {
        let processes = Processes {
            boot: boot_id().unwrap(),
            vmm: self.vmm.identity(),
            vsock,
        };
        let record = Record::new(INSTANCE, INCARNATION, 0, Life::Running(processes));
        self.instances.tools.records.keep(record).await.unwrap();
    }

    fn socket(&self) -> PathBuf {
        let run = self.instances.tools.records.run_folder(INSTANCE);
        run.join("vsock.sock_8470")
    }

    fn vm_json(&self) -> PathBuf {
        self.instances.tools.records.folder(INSTANCE).join("vm.json")
    }

    fn link_key(&self) -> PathBuf {
        let folder = self.instances.tools.records.folder(INSTANCE);
        folder.join("link-key.json")
    }

    /// Waits until the VM is said to be so; the clock of the tasks may stand still meanwhile.
    async fn is_said(&self, said: impl Fn(&VmStatus) -> bool) {
        let begun = Instant::now();
        loop {
            let status = self.instances.tools.table.get(INSTANCE);
            if status.as_ref().is_some_and(&said) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "{status:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn next_end(&mut self) {
        let ended = self.instances.tasks.join_next_with_id().await.unwrap();
        self.instances.ended(&ended);
    }

    /// Says that the instance is gone, and waits until nothing is left of it.
    async fn goes(mut self) {
        self.instances.want(INSTANCE, Wanted::Gone);
        self.next_end().await;
        self.vmm.ended().await;
        assert!(self.instances.wanted.is_empty());
        assert!(!self.instances.tools.records.folder(INSTANCE).exists());
        self.shards.drain(0).unwrap();
    }
}

fn runs(status: &VmStatus) -> bool {
    status.state == InstanceState::Running && status.reason.is_none()
}

fn is_out_of_reach(status: &VmStatus) -> bool {
    let bound = |reason: &String| reason.contains("can't be bound");
    status.state == InstanceState::Running && status.reason.as_ref().is_some_and(bound)
}

#[tokio::test]
async fn an_instance_whose_task_failed_gets_another_that_finds_the_vm_and_heeds_what_is_wanted() {
    let mut host = Host::new().await;
    host.instances.want(INSTANCE, Wanted::Unknown);
    host.is_said(runs).await;
    // Its end without an end of its own is what a panic is to whoever waits for it.
    host.instances.tasks.abort_all();
    host.instances.tools.table.remove(INSTANCE);
    tokio::time::pause();
    host.next_end().await;
    host.is_said(runs).await;
    UnixStream::connect(host.socket()).unwrap();
    host.goes().await;
}

#[tokio::test]
async fn a_vm_that_blocks_its_own_channel_is_bound_once_the_way_is_free() {
    let mut host = Host::new().await;
    std::fs::create_dir(host.socket()).unwrap();
    host.instances.want(INSTANCE, Wanted::Unknown);
    host.is_said(is_out_of_reach).await;
    std::fs::remove_dir(host.socket()).unwrap();
    tokio::time::pause();
    host.is_said(runs).await;
    UnixStream::connect(host.socket()).unwrap();
    host.goes().await;
}

#[tokio::test]
async fn a_vm_that_blocks_its_own_channel_ends_when_it_is_to() {
    let mut host = Host::new().await;
    std::fs::create_dir(host.socket()).unwrap();
    host.instances.want(INSTANCE, Wanted::Unknown);
    host.is_said(is_out_of_reach).await;
    host.goes().await;
}

#[tokio::test]
async fn a_vm_with_a_cid_ends_when_it_is_to_although_nobody_listens_for_it() {
    let mut host = Host::new().await;
    host.record(Vsock::Kernel { cid: 7 }).await;
    host.instances.want(INSTANCE, Wanted::Unknown);
    host.is_said(is_out_of_reach).await;
    host.goes().await;
}

#[tokio::test]
async fn the_link_key_of_a_vm_that_ended_unseen_is_not_kept() {
    let mut host = Host::new().await;
    host.vmm.kill().unwrap();
    host.vmm.ended().await;
    assert!(host.link_key().exists());
    host.instances.want(INSTANCE, Wanted::Unknown);
    host.is_said(|status| status.state == InstanceState::Failed).await;
    assert!(!host.link_key().exists());
    host.goes().await;
}

#[tokio::test]
async fn what_a_newer_release_left_is_not_touched_and_its_vm_runs_on() {
    let mut host = Host::new().await;
    let registration = host.folder.path().join(format!("external/{INSTANCE}.json"));
    for file in [host.vm_json(), host.link_key(), registration] {
        let before = std::fs::read(&file).ok();
        let newer = br#"{"version": 7, "instances": ["i-07070707070707070707070707070707"]}"#;
        std::fs::write(&file, newer).unwrap();
        let error = supervisor(host.folder.path(), &host.shards).unwrap_err();
        assert!(matches!(error, FileError::Newer { found: 7, .. }), "{error:?}");
        assert!(
            error.to_string().contains("install that release again"),
            "{error}"
        );
        assert_eq!(std::fs::read(&file).unwrap(), newer);
        match before {
            Some(before) => std::fs::write(&file, before).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
    }
    supervisor(host.folder.path(), &host.shards).unwrap();
    host.instances.want(INSTANCE, Wanted::Unknown);
    host.is_said(runs).await;
    host.goes().await;
}

#[tokio::test]
async fn a_vm_whose_record_cant_be_read_for_a_while_is_found_again() {
    let mut host = Host::new().await;
    let (record, away) = (host.vm_json(), host.vm_json().with_extension("away"));
    std::fs::rename(&record, &away).unwrap();
    // A folder can be opened and not be read, also by root.
    std::fs::create_dir(&record).unwrap();
    host.instances.want(INSTANCE, Wanted::Unknown);
    // A clock that stands still goes on once every task waits.
    tokio::time::pause();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(host.link_key().exists(), "nothing is cleared away");
    std::fs::remove_dir(&record).unwrap();
    std::fs::rename(&away, &record).unwrap();
    host.is_said(runs).await;
    UnixStream::connect(host.socket()).unwrap();
    host.goes().await;
}
