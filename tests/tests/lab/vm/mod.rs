//! The host daemon's QEMU driver on real machines: VMs start, outlive their supervisor, end by themselves and by
//! order, and are cleaned up.
//!
//! What is tested is the supervisor as the daemon runs it, on real shards, with reports read off where the uplink
//! takes them. That VMs outlive a daemon's process which is killed is part of the demo, and of the test of their disks,
//! which is on a whole deployment.

mod disk;
mod failures;
mod lives;

use anyhow::{Context, Result, bail, ensure};
use moorline_host::config::{CacheConfig, LinkConfig};
use moorline_host::link::{Shards, ShardsHandle};
use moorline_host::uplink::{Reports, SpecChange};
use moorline_host::vm::Supervisor;
use moorline_host::vm::config::{Accel, Image, QemuConfig, Tables, VmConfig, VsockDevice};
use moorline_host::vm::process::Identity;
use moorline_host::vm::qmp::{Qmp, RunState};
use moorline_host::vm::record::{Life, Processes, Record, Records};
use moorline_lab::guest::{Control, Lines, Seats, control_arguments, seats};
use moorline_lab::image::Busybox;
use moorline_lab::setup;
use moorline_lab::wait;
use moorline_shared::api::feed::InstanceSpec;
use moorline_shared::api::hosts::ReportState;
use moorline_shared::api::instances::{Desired, Driver, InstanceState};
use moorline_shared::{InstanceId, Revision};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_mins(1);
/// Nobody's, on machines whose users have names.
const FIRST_USER: u32 = 200_000;
const INSTANCE: InstanceId = InstanceId::from_bytes([7; 16]);

/// The state folder of a host, whose VMs end when this is dropped.
struct Host {
    folder: TempDir,
    tables: Tables,
    /// For its one VM; let go of when that has ended.
    _seats: Seats,
}

impl Host {
    /// A host that can boot a busybox guest, and a seat for one.
    async fn new() -> Result<Self> {
        let tools = setup::ready().await?;
        let image = Busybox::new().build(tools).await?;
        let seats = seats(1).await;
        let name = "busybox".parse().context("the name of the image")?;
        let image = Image {
            kernel: Some(image.kernel.clone()),
            initrd: Some(image.initrd.clone()),
            append: Some(image.command_line.clone()),
            ..Image::default()
        };
        let qemu = QemuConfig {
            accel: Accel::Tcg,
            vsock: VsockDevice::VhostUser,
            vsock_device: tools.vsock_device.clone(),
            arguments: control_arguments(Path::new("{folder}/control.sock")),
            ..QemuConfig::default()
        };
        let vm = VmConfig {
            stop_seconds: 1,
            ..VmConfig::default()
        };
        Ok(Self {
            folder: tempfile::Builder::new().prefix("moorline-vm-").tempdir()?,
            tables: Tables {
                vm,
                qemu,
                images: [(name, image)].into(),
                ..Tables::default()
            },
            _seats: seats,
        })
    }

    /// One whose VMs run as users of their own, who can read what VMs are made of. That takes root.
    async fn with_users() -> Result<Self> {
        let mut host = Self::new().await?;
        host.open_to_others()?;
        host.tables.qemu.user_base = Some(FIRST_USER);
        Ok(host)
    }

    /// Lets other users through to the VMs' folders, and to copies of what VMs are made of.
    fn open_to_others(&mut self) -> Result<()> {
        let folder = self.folder.path();
        std::fs::set_permissions(folder, Permissions::from_mode(0o711))?;
        let copy = |file: &mut PathBuf| -> Result<()> {
            let name = file.file_name().context("a file has a name")?;
            let copy = folder.join(name);
            std::fs::copy(&file, &copy).with_context(|| format!("copy {}", file.display()))?;
            std::fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
            *file = copy;
            Ok(())
        };
        copy(&mut self.tables.qemu.vsock_device)?;
        for image in self.tables.images.values_mut() {
            image
                .kernel
                .iter_mut()
                .chain(&mut image.initrd)
                .try_for_each(copy)?;
        }
        Ok(())
    }

    fn vm_folder(&self) -> PathBuf {
        self.folder.path().join("vms").join(INSTANCE.to_string())
    }

    async fn guest(&self) -> Result<Control> {
        Control::connect(&self.vm_folder().join("run/control.sock"), PATIENCE).await
    }

    /// Every process that works in the VM's folder, found by that and not by what the daemon says.
    fn processes(&self) -> Vec<Pid> {
        let folder = self.vm_folder();
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let ours = |pid: &i32| {
            let works_in = std::fs::read_link(format!("/proc/{pid}/cwd"));
            works_in.is_ok_and(|works_in| works_in.starts_with(&folder))
        };
        pids.filter(ours).filter_map(Pid::from_raw).collect()
    }

    async fn nothing_runs(&self) -> Result<()> {
        let ended = async || self.processes().is_empty().then_some(());
        wait::until("the VM's processes to be gone", PATIENCE, ended).await
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for pid in self.processes() {
            // One that has ended meanwhile is what is wanted.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The part of a host daemon that has to do with VMs. Dropping it, or ending it, leaves the VMs alone.
struct Daemon {
    specs: mpsc::Sender<SpecChange>,
    reports: mpsc::UnboundedReceiver<ReportState>,
    cancel: CancellationToken,
    supervisor: JoinSet<Result<()>>,
    shards: Shards,
    spec: InstanceSpec,
    _asks: mpsc::Receiver<moorline_host::link::Ask>,
}

impl Daemon {
    fn start(host: &Host) -> Result<Self> {
        let (asks, answers) = mpsc::channel(16);
        let link = LinkConfig::default();
        let shards = Shards::start(&link, &CacheConfig::default(), None, &asks)?;
        let handle: ShardsHandle = shards.handle().clone();
        let (reporting, reports) = Reports::channel();
        let supervisor = Supervisor::new(&host.tables, host.folder.path(), handle, reporting)?;
        let (specs, changes) = mpsc::channel(16);
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let until = cancel.clone();
        tasks.spawn(async move { Ok(supervisor.run(changes, until).await?) });
        Ok(Self {
            specs,
            reports,
            cancel,
            supervisor: tasks,
            shards,
            spec: spec()?,
            _asks: answers,
        })
    }

    async fn want(&mut self, desired: Desired, reboots: u64) -> Result<()> {
        self.spec.desired = desired;
        self.spec.reboots = reboots;
        self.spec.revision = Revision::new(1, self.spec.revision.n + 1);
        self.tell(SpecChange::Set(self.spec.clone())).await
    }

    async fn tell(&self, change: SpecChange) -> Result<()> {
        self.specs.send(change).await.context("the supervisor has ended")
    }

    /// The next report, which must be of this state.
    async fn reports(&mut self, state: InstanceState) -> Result<ReportState> {
        let next = timeout(PATIENCE, self.reports.recv()).await;
        let report = next.with_context(|| format!("no report of {state:?}"))?;
        let report = report.context("the supervisor has ended")?;
        ensure!(report.state == state, "{report:?} was reported and not {state:?}");
        Ok(report)
    }

    async fn end(mut self) -> Result<()> {
        self.cancel.cancel();
        while let Some(ended) = self.supervisor.join_next().await {
            ended.context("join the supervisor")??;
        }
        let shards = self.shards;
        tokio::task::spawn_blocking(move || shards.drain(0)).await??;
        Ok(())
    }
}

fn spec() -> Result<InstanceSpec> {
    Ok(InstanceSpec {
        instance: INSTANCE,
        revision: Revision::new(1, 1),
        account: "main".parse()?,
        name: None,
        driver: Driver::Qemu,
        image: Some("busybox".parse()?),
        vcpus: 1,
        memory_mib: 128,
        desired: Desired::Running,
        roles: BTreeSet::new(),
        reboots: 0,
        incarnation: 4,
    })
}

/// Has the guest power itself off. The answer never comes, so it must be held and not awaited.
async fn power_off(host: &Host) -> Result<(Control, Lines)> {
    let guest = host.guest().await?;
    let command = guest.lines("poweroff -f")?;
    Ok((guest, command))
}

/// Waits until the guest is off and its QEMU waits for somebody to take notice.
async fn waits_for_notice(host: &Host) -> Result<()> {
    let Some(Life::Running(Processes { vmm, .. })) = record(host)?.map(|record| record.life) else {
        bail!("the VM is not recorded as running");
    };
    let socket = host.vm_folder().join("run/qmp.sock");
    let off = async || {
        let status = Qmp::connect(&socket, vmm).await.ok()?.status().await.ok()?;
        (status == RunState::Shutdown).then_some(())
    };
    wait::until("the guest to be off", PATIENCE, off).await
}

fn send(process: Identity, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(process.pid).context("a process id")?;
    kill_process(pid, signal).with_context(|| format!("send {signal:?} to {process:?}"))
}

fn record(host: &Host) -> Result<Option<Record>> {
    Ok(Records::open(host.folder.path())?.load(INSTANCE)?)
}
