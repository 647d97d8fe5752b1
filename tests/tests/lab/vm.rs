//! The host daemon's QEMU driver on real machines: VMs start, outlive their supervisor, end by themselves and by
//! order, and are cleaned up.
//!
//! What is tested is the supervisor as the daemon runs it, on real shards, with reports read off where the uplink
//! takes them. That VMs outlive a daemon's process which is killed is part of the demo.

use anyhow::{Context, Result, bail, ensure};
use moorline_host::config::{CacheConfig, LinkConfig};
use moorline_host::link::{Shards, ShardsHandle};
use moorline_host::uplink::{Reports, SpecChange};
use moorline_host::vm::Supervisor;
use moorline_host::vm::config::{Accel, Image, QemuConfig, Tables, VmConfig, VsockDevice};
use moorline_host::vm::process::Identity;
use moorline_host::vm::qmp::{Qmp, RunState};
use moorline_host::vm::record::{Life, Record, Records, Vsock};
use moorline_lab::guest::{Control, Lines, control_arguments, seats};
use moorline_lab::image::{self, Busybox};
use moorline_lab::setup::{self, Tools};
use moorline_lab::wait;
use moorline_shared::api::feed::InstanceSpec;
use moorline_shared::api::hosts::ReportState;
use moorline_shared::api::instances::{Desired, Driver, InstanceState};
use moorline_shared::{InstanceId, Revision};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
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
}

impl Host {
    fn new(tools: &Tools, image: &image::Image) -> Result<Self> {
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
        })
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
        tokio::task::spawn_blocking(move || shards.drain(0)).await?;
        Ok(())
    }
}

fn spec() -> Result<InstanceSpec> {
    Ok(InstanceSpec {
        instance: INSTANCE,
        revision: Revision::new(1, 1),
        name: None,
        driver: Driver::Qemu,
        image: Some("busybox".parse()?),
        vcpus: 1,
        memory_mib: 128,
        desired: Desired::Running,
        reboots: 0,
        incarnation: 4,
    })
}

#[tokio::test]
async fn a_vm_outlives_its_supervisor_and_ends_as_wanted() -> Result<()> {
    let tools = setup::ready().await?;
    let image = Busybox::new().build(tools).await?;
    let _seats = seats(1).await;
    let host = Host::new(tools, &image)?;

    let mut daemon = Daemon::start(&host)?;
    daemon.want(Desired::Running, 0).await?;
    let report = daemon.reports(InstanceState::Running).await?;
    assert_eq!(
        (report.incarnation, report.reboots),
        (5, 0),
        "higher than what was reported last"
    );
    let guest = host.guest().await?;
    assert_eq!(guest.run("ls /sys/class/net").await?.text()?, "lo");
    let uuid = guest.run("cat /sys/class/dmi/id/product_serial").await?.text()?;
    assert_eq!(uuid, INSTANCE.to_string());
    let processes = host.processes();
    assert_eq!(processes.len(), 2, "QEMU and its vsock device");
    daemon.end().await?;

    // The next one finds the same VM in the same life, before anybody says what is wanted of it.
    assert_eq!(host.processes(), processes);
    let mut daemon = Daemon::start(&host)?;
    daemon.want(Desired::Running, 0).await?;
    let report = daemon.reports(InstanceState::Running).await?;
    assert_eq!(report.incarnation, 5);
    assert_eq!(host.processes(), processes);
    guest.run("true").await?.text()?;
    drop(guest);

    // A reboot is another life with other processes; a reboot that was done is not done again.
    daemon.want(Desired::Running, 1).await?;
    let report = daemon.reports(InstanceState::Running).await?;
    assert_eq!((report.incarnation, report.reboots), (6, 1));
    assert!(processes.iter().all(|pid| !host.processes().contains(pid)));

    daemon.want(Desired::Stopped, 1).await?;
    let report = daemon.reports(InstanceState::Stopped).await?;
    assert_eq!((report.incarnation, report.reason), (6, None));
    host.nothing_runs().await?;
    daemon.want(Desired::Running, 1).await?;
    assert_eq!(daemon.reports(InstanceState::Running).await?.incarnation, 7);

    daemon.want(Desired::Terminated, 1).await?;
    daemon.reports(InstanceState::Terminated).await?;
    host.nothing_runs().await?;
    assert!(!host.vm_folder().exists());
    daemon.end().await
}

#[tokio::test]
async fn a_vm_that_ends_by_itself_stays_off_until_it_is_wanted_again() -> Result<()> {
    let tools = setup::ready().await?;
    let image = Busybox::new().build(tools).await?;
    let _seats = seats(1).await;
    let host = Host::new(tools, &image)?;
    let mut daemon = Daemon::start(&host)?;

    daemon.want(Desired::Running, 0).await?;
    daemon.reports(InstanceState::Running).await?;
    let _off = power_off(&host).await?;
    let report = daemon.reports(InstanceState::Stopped).await?;
    assert_eq!(report.reason.as_deref(), Some("the guest powered off"));
    host.nothing_runs().await?;

    // A start is a wish with a higher number, and a guest that is off while no daemon runs is off.
    daemon.want(Desired::Running, 1).await?;
    daemon.reports(InstanceState::Running).await?;
    daemon.end().await?;
    let _off = power_off(&host).await?;
    waits_for_notice(&host).await?;
    let mut daemon = Daemon::start(&host)?;
    daemon.want(Desired::Running, 1).await?;
    let report = loop {
        let report = daemon.reports.recv().await.context("the supervisor has ended")?;
        if report.state != InstanceState::Running {
            break report;
        }
    };
    assert_eq!(report.reason.as_deref(), Some("the guest powered off"));
    host.nothing_runs().await?;

    // A QEMU that is killed is a failure, and not started again in a circle.
    daemon.want(Desired::Running, 2).await?;
    let report = daemon.reports(InstanceState::Running).await?;
    let Some(Life::Running(processes)) = record(&host)?.map(|record| record.life) else {
        bail!("the record says nothing of a VM that runs");
    };
    let Vsock::Process { process: device } = processes.vsock else {
        bail!("the VM has no vsock device of its own");
    };
    send(device, Signal::KILL)?;
    let cut_off = daemon.reports(InstanceState::Running).await?;
    let reason = cut_off.reason.context("a reason")?;
    assert!(
        reason.starts_with("its vsock device was ended by signal 9"),
        "{reason}"
    );
    send(processes.vmm, Signal::KILL)?;
    let lost = daemon.reports(InstanceState::Failed).await?;
    assert_eq!(lost.incarnation, report.incarnation);
    assert_eq!(lost.reason.as_deref(), Some("its QEMU was ended by signal 9"));
    host.nothing_runs().await?;
    daemon.end().await
}

#[tokio::test]
async fn a_qemu_that_does_not_answer_is_killed_in_the_end() -> Result<()> {
    let tools = setup::ready().await?;
    let image = Busybox::new().build(tools).await?;
    let _seats = seats(1).await;
    let host = Host::new(tools, &image)?;
    let mut daemon = Daemon::start(&host)?;
    daemon.want(Desired::Running, 0).await?;
    daemon.reports(InstanceState::Running).await?;
    let Some(Life::Running(processes)) = record(&host)?.map(|record| record.life) else {
        bail!("the record says nothing of a VM that runs");
    };
    send(processes.vmm, Signal::STOP)?;
    daemon.want(Desired::Stopped, 0).await?;
    let report = daemon.reports(InstanceState::Stopped).await?;
    assert_eq!(report.reason, None);
    host.nothing_runs().await?;
    daemon.end().await
}

#[tokio::test]
async fn what_a_supervisor_left_half_done_is_cleaned_up() -> Result<()> {
    let tools = setup::ready().await?;
    let image = Busybox::new().build(tools).await?;
    let _seats = seats(1).await;
    let host = Host::new(tools, &image)?;
    let mut daemon = Daemon::start(&host)?;
    daemon.want(Desired::Running, 0).await?;
    let report = daemon.reports(InstanceState::Running).await?;
    daemon.end().await?;

    // As if the daemon had died between the start of the processes and their entry into the record.
    let records = Records::open(host.folder.path())?;
    records.save(&Record::new(INSTANCE, report.incarnation, 0, Life::Beginning))?;
    let before = host.processes();
    let mut daemon = Daemon::start(&host)?;
    daemon.want(Desired::Running, 0).await?;
    let again = daemon.reports(InstanceState::Running).await?;
    assert_eq!(again.incarnation, report.incarnation + 1);
    assert!(before.iter().all(|pid| !host.processes().contains(pid)));
    daemon.end().await?;

    // A record that nobody can read ends the VM, and the file stays for a person to look at.
    std::fs::write(host.vm_folder().join("vm.json"), "{")?;
    let daemon = Daemon::start(&host)?;
    host.nothing_runs().await?;
    assert!(host.vm_folder().join("vm.json.corrupt-1").exists());

    // Once all instances are known, a VM of none of them is removed.
    daemon.tell(SpecChange::Complete).await?;
    let removed = async || (!host.vm_folder().exists()).then_some(());
    wait::until("the folder to be gone", PATIENCE, removed).await?;
    daemon.end().await
}

#[tokio::test]
async fn a_vm_that_cannot_start_says_why() -> Result<()> {
    let tools = setup::ready().await?;
    let image = Busybox::new().build(tools).await?;
    let mut host = Host::new(tools, &image)?;
    host.tables.qemu.arguments.push("-no-such-argument".to_owned());
    let mut daemon = Daemon::start(&host)?;
    daemon.want(Desired::Running, 0).await?;
    let report = daemon.reports(InstanceState::Failed).await?;
    let reason = report.reason.context("a reason")?;
    assert!(reason.contains("-no-such-argument: invalid option"), "{reason}");
    host.nothing_runs().await?;
    // It is tried again, as another life.
    let again = daemon.reports(InstanceState::Failed).await?;
    assert_eq!(again.incarnation, report.incarnation + 1);

    daemon.spec.image = Some("unheard-of".parse()?);
    daemon.want(Desired::Running, 0).await?;
    let report = loop {
        let report = daemon.reports(InstanceState::Failed).await?;
        if report.reason.as_ref() != Some(&reason) {
            break report;
        }
    };
    let reason = report.reason.context("a reason")?;
    assert!(reason.contains("images.unheard-of"), "{reason}");
    daemon.want(Desired::Stopped, 0).await?;
    daemon.reports(InstanceState::Stopped).await?;
    daemon.end().await
}

/// An own user for each VM takes root, and files that other users can reach.
#[tokio::test]
async fn vms_run_as_users_of_their_own() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        println!("not root: nothing to test here");
        return Ok(());
    }
    let tools = setup::ready().await?;
    let image = Busybox::new().build(tools).await?;
    let _seats = seats(1).await;
    let mut host = Host::new(tools, &image)?;
    host.open_to_others()?;
    host.tables.qemu.user_base = Some(FIRST_USER);
    let mut daemon = Daemon::start(&host)?;
    daemon.want(Desired::Running, 0).await?;
    daemon.reports(InstanceState::Running).await?;
    let processes = host.processes();
    assert_eq!(processes.len(), 2, "QEMU and its vsock device");
    for pid in processes {
        let owner = std::fs::metadata(format!("/proc/{}", pid.as_raw_nonzero()))?.uid();
        assert_eq!(owner, FIRST_USER);
    }
    // What its guest says arrives: nonsense, so the shard counts it as the guest's fault.
    let guest = host.guest().await?;
    guest.run("lab-guest vsock-echo 8470 4096").await?;
    let at_fault = async || {
        let guests = daemon.shards.handle().status().await.ok()?;
        guests
            .iter()
            .any(|guest| guest.instance == INSTANCE && guest.requests.faults > 0)
            .then_some(())
    };
    wait::until("the guest's nonsense to arrive", PATIENCE, at_fault).await?;
    daemon.want(Desired::Terminated, 0).await?;
    daemon.reports(InstanceState::Terminated).await?;
    daemon.end().await
}

/// Has the guest power itself off. The answer never comes, so it must be held and not awaited.
async fn power_off(host: &Host) -> Result<(Control, Lines)> {
    let guest = host.guest().await?;
    let command = guest.lines("poweroff -f")?;
    Ok((guest, command))
}

/// Waits until the guest is off and its QEMU waits for somebody to take notice.
async fn waits_for_notice(host: &Host) -> Result<()> {
    let socket = host.vm_folder().join("run/qmp.sock");
    let off = async || {
        let status = Qmp::connect(&socket).await.ok()?.status().await.ok()?;
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
