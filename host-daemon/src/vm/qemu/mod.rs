//! The driver that runs VMs by itself, with QEMU.
//!
//! [`Qemu::vsock`] prepares the guest's way to the host, so that the channel can be bound before there is a guest;
//! [`Qemu::boot`] then starts QEMU ([`command`] is its command line) and waits until it answers. [`Qemu::adopt`]
//! finds a VM of an earlier daemon again, and [`Qemu::clear`] ends whatever runs in an instance's name. A [`vm::Vm`]
//! is what one talks with from then on.

mod accel;
mod command;
mod error;
mod handed;
mod launch;
pub(super) mod vm;
mod vsock;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use moorline_shared::InstanceId;
use moorline_shared::api::feed::InstanceSpec;
use moorline_shared::secret::SecretKey;
use tokio::sync::{Mutex, OnceCell};
use tokio::time::{Instant, sleep, timeout_at};

use self::command::{Engine, Machine};
use self::launch::{Launch, last_line};
use self::vm::{Device, Vm, again};
use self::vsock::Cids;
use super::config::{Image, Images, QemuConfig, Tables};
use super::link_key;
use super::process::{Process, boot_id, writing_to};
use super::qmp::Qmp;
use super::record::{Processes, Reach, Records, Vsock};
use crate::channel::{ChannelSpec, ExpectedPeer};
use crate::link::{Admission, PortState};

pub use self::error::StartError;
use self::error::cannot;
use self::handed::HandedKey;
pub use self::vsock::LeaseError;

/// For a process to make its socket. An idle machine takes some 50 ms.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at whether it has.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
/// Between two looks at how large the logs are. What a VM's processes write meanwhile is not bounded by anything else.
const BETWEEN_LOGS: Duration = Duration::from_secs(10);
const QEMU_LOG: &str = "qemu.log";
const DEVICE_LOG: &str = "vsock-device.log";
/// A vsock device of its own knows one guest only, so they may all have the same CID.
const SAME_CID: u32 = 3;
/// How many users the VMs have between them.
const USERS: u32 = 65_536;

/// Starts VMs with QEMU, and finds them again.
#[derive(Debug)]
pub struct Qemu {
    config: QemuConfig,
    images: Images,
    records: Records,
    port: PortState,
    engine: OnceCell<Engine>,
    cids: Cids,
    users: std::sync::Mutex<()>,
    /// Held while all processes of the host are looked at, so that many VMs' tasks don't do that all at once.
    looking: Mutex<()>,
}

/// A guest's vsock that is ready for a QEMU.
#[derive(Debug)]
pub(super) struct Ready {
    way: Way,
    folder: PathBuf,
}

#[derive(Debug)]
enum Way {
    Kernel { cid: u32, device: OwnedFd },
    Process { process: Process, key: SecretKey },
}

impl Ready {
    /// Where the guest's connections will arrive, and from whom.
    pub(super) fn channel(&self) -> ChannelSpec {
        match &self.way {
            Way::Kernel { cid, .. } => ChannelSpec::Vsock { cid: *cid },
            Way::Process { process, key } => hybrid(&self.folder, process, key),
        }
    }

    fn device(&self) -> command::Device {
        match self.way {
            Way::Kernel { cid, .. } => command::Device::Kernel { cid },
            Way::Process { .. } => command::Device::Process,
        }
    }
}

impl Way {
    /// What QEMU gets as its standard input, what the VM holds of the device, and what is recorded of it.
    fn plug(self) -> (Stdio, Device, Vsock) {
        match self {
            Self::Kernel { cid, device } => (Stdio::from(device), Device::Kernel, Vsock::Kernel { cid }),
            Self::Process { process, .. } => {
                let vsock = Vsock::Process {
                    process: process.identity(),
                };
                (Stdio::null(), Device::Process(process), vsock)
            }
        }
    }
}

/// Nobody but the device's process connects, and it does so as the user whose the VM's folder is.
fn hybrid(folder: &Path, device: &Process, key: &SecretKey) -> ChannelSpec {
    use std::os::unix::fs::MetadataExt;
    let owner = folder.symlink_metadata().map(|folder| folder.uid());
    let process = device.identity();
    let user = owner.unwrap_or_else(|_| rustix::process::geteuid().as_raw());
    ChannelSpec::HybridVsock {
        uds_path: folder.join("vsock.sock"),
        peer: ExpectedPeer::Process { process, user },
        admission: Admission::Proof(key.clone()),
    }
}

/// What an adopted VM is.
#[derive(Debug)]
pub(super) struct Adopted {
    pub(super) vm: Vm,
    /// Where its guest's connections arrive; none if its vsock device is no more, or its link key.
    pub(super) channel: Option<ChannelSpec>,
}

impl Qemu {
    /// A driver for the images of `tables`; it keeps what it has to in `records`. Where nobody listens on `port`, it gives
    /// no guest the kernel's device by itself.
    pub fn new(tables: &Tables, records: Records, port: PortState) -> Self {
        let cids = Cids::from(tables.qemu.first_cid);
        Self {
            config: tables.qemu.clone(),
            images: tables.images.clone(),
            records,
            port,
            engine: OnceCell::new(),
            cids,
            users: std::sync::Mutex::default(),
            looking: Mutex::default(),
        }
    }

    /// Makes the folders of an instance's VM, with a user of its own if that is configured.
    pub(super) fn prepare(&self, instance: InstanceId) -> Result<(), StartError> {
        // Held until the user's folder is there: that is what marks the user as taken.
        let _one_at_a_time = self
            .users
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let reach = match self.config.user_base {
            None => Reach::Daemon,
            Some(base) => Reach::User(self.user(instance, base)?),
        };
        Ok(self.records.prepare(instance, reach)?)
    }

    /// The user that the instance's VM has had so far, or else the first that no VM has.
    fn user(&self, instance: InstanceId, base: u32) -> Result<u32, StartError> {
        let users = base..base + USERS;
        let own = self.records.user(instance).filter(|user| users.contains(user));
        if let Some(own) = own {
            return Ok(own);
        }
        let others = self.records.instances()?.into_iter();
        let taken: std::collections::BTreeSet<_> =
            others.filter_map(|other| self.records.user(other)).collect();
        users
            .into_iter()
            .find(|user| !taken.contains(user))
            .ok_or(StartError::NoUser)
    }

    /// Prepares the guest's vsock. Cancelled or failed, it may leave a process, which [`Self::clear`] ends.
    pub(super) async fn vsock(&self, instance: InstanceId, incarnation: u64) -> Result<Ready, StartError> {
        let folder = self.records.run_folder(instance);
        let way = match vsock::choose(self.config.vsock, self.port, vsock::kernels()) {
            vsock::Choice::Kernels => {
                let vsock::Lease { cid, device } = self.cids.lease()?;
                Way::Kernel { cid, device }
            }
            vsock::Choice::Process => {
                let key = link_key::fresh().map_err(cannot("make a link key"))?;
                // Kept first: the guest has it from its first instruction on.
                self.records
                    .keep_link_key(instance, incarnation, key.clone())
                    .await?;
                let process = self.start_device(instance, &folder).await?;
                Way::Process { process, key }
            }
        };
        Ok(Ready { way, folder })
    }

    async fn start_device(&self, instance: InstanceId, folder: &Path) -> Result<Process, StartError> {
        let socket = command::device_socket(folder);
        remove_if_there(&socket).map_err(cannot("remove an old socket of the vsock device"))?;
        let log = self.device_log(instance);
        let launch = self.launch(instance, "vsock", &self.config.vsock_device, &log, folder);
        // In its own folder names are short enough for a socket, whatever the path of the state folder.
        let vm = format!("guest-cid={SAME_CID},socket=device.sock,uds-path=vsock.sock");
        let mut device = launch
            .start(["--vm", &vm], Stdio::null())
            .map_err(cannot("start the vsock device"))?;
        let there = async || socket.exists().then_some(());
        come_up("the vsock device", &mut device, &log, there).await?;
        Ok(device)
    }

    /// Starts QEMU and waits until it answers. Cancelled or failed, it may leave processes, which [`Self::clear`]
    /// ends.
    pub(super) async fn boot(
        &self,
        spec: &InstanceSpec,
        ready: Ready,
    ) -> Result<(Vm, Processes), StartError> {
        let engine = self
            .engine
            .get_or_init(|| accel::choose(&self.config, &self.images));
        let machine = Machine {
            instance: spec.instance,
            config: &self.config,
            image: self.image(spec)?,
            vcpus: spec.vcpus,
            memory_mib: spec.memory_mib,
            engine: *engine.await,
            device: ready.device(),
            folder: &ready.folder,
        };
        let handed = self.hand_key(&machine, &ready.way)?;
        let (stdin, device, vsock) = ready.way.plug();
        let started = async {
            self.make_overlay(&machine).await?;
            self.start_qemu(&machine, stdin).await
        };
        let started = started.await;
        // QEMU has read it when it answers.
        drop(handed);
        let (vmm, qmp) = match started {
            Ok(started) => started,
            Err(error) => return Err(self.explain(error, &machine).await),
        };
        let processes = Processes {
            boot: boot_id().map_err(cannot("read the host's boot id"))?,
            vmm: vmm.identity(),
            vsock,
        };
        let vm = Vm {
            vmm,
            device,
            socket: command::qmp_socket(&ready.folder),
            qmp: Some(qmp),
        };
        Ok((vm, processes))
    }

    /// Lays the guest's link key where QEMU reads it, and nobody but its user can, until the answer is dropped.
    fn hand_key(&self, machine: &Machine<'_>, way: &Way) -> Result<Option<HandedKey>, StartError> {
        let Way::Process { key, .. } = way else {
            return Ok(None);
        };
        let path = command::link_key(machine.folder);
        let handed = HandedKey::lay(path, key, self.user_of(machine.instance));
        handed.map(Some).map_err(cannot("lay down the VM's link key"))
    }

    /// Names the image's file that the VM's user can't read, if that is why one of its processes ended at once.
    async fn explain(&self, error: StartError, machine: &Machine<'_>) -> StartError {
        let user = self.user_of(machine.instance);
        let (Some(user), StartError::EndedEarly { .. }) = (user, &error) else {
            return error;
        };
        for file in machine.image.files() {
            // Where it can't be tried, what the process said has to do.
            if file.exists() && launch::can_read(user, file).await.is_ok_and(|can| !can) {
                return StartError::Unreadable {
                    file: file.to_owned(),
                    user,
                    source: Box::new(error),
                };
            }
        }
        error
    }

    /// The user as whom the processes of an instance's VM run; none for the daemon's own.
    fn user_of(&self, instance: InstanceId) -> Option<u32> {
        self.config.user_base.and_then(|_| self.records.user(instance))
    }

    fn image(&self, spec: &InstanceSpec) -> Result<&Image, StartError> {
        let name = spec.image.as_ref().ok_or(StartError::NoImage)?;
        self.images
            .get(name)
            .ok_or_else(|| StartError::UnknownImage(name.clone()))
    }

    async fn start_qemu(&self, machine: &Machine<'_>, stdin: Stdio) -> Result<(Process, Qmp), StartError> {
        let socket = command::qmp_socket(machine.folder);
        remove_if_there(&socket).map_err(cannot("remove an old socket of QEMU"))?;
        let log = self.qemu_log(machine.instance);
        let launch = self.launch(
            machine.instance,
            "qemu",
            &self.config.binary,
            &log,
            machine.folder,
        );
        let launch = Launch {
            group: accel::group_of(machine.engine),
            ..launch
        };
        let mut vmm = launch
            .start(machine.arguments(), stdin)
            .map_err(cannot("start QEMU"))?;
        let identity = vmm.identity();
        let answers = async || again(&socket, identity).await.ok();
        let (qmp, _) = come_up("QEMU", &mut vmm, &log, answers).await?;
        Ok((vmm, qmp))
    }

    /// An empty layer over the image's disk, unless the instance has one already.
    async fn make_overlay(&self, machine: &Machine<'_>) -> Result<(), StartError> {
        let Some(disk) = &machine.image.disk else {
            return Ok(());
        };
        let overlay = command::overlay(machine.folder);
        if overlay.exists() {
            return Ok(());
        }
        let log = self.records.folder(machine.instance).join("qemu-img.log");
        let launch = self.launch(
            machine.instance,
            "disk",
            &self.config.qemu_img,
            &log,
            machine.folder,
        );
        // Under another name until it is whole, since a half-made one would be taken for the disk.
        let new = machine.folder.join("disk.new");
        let format = machine.image.disk_format.as_str();
        let mut arguments: Vec<&std::ffi::OsStr> = Vec::new();
        arguments.extend(["create", "-q", "-f", "qcow2", "-F", format, "-b"].map(std::ffi::OsStr::new));
        arguments.extend([disk.as_os_str(), new.as_os_str()]);
        let mut process = launch
            .start(arguments, Stdio::null())
            .map_err(cannot("start qemu-img"))?;
        let ending = process.ended().await;
        if ending != super::process::Exit::Exited(0) {
            let said = last_line(&log);
            let what = "qemu-img";
            return Err(StartError::EndedEarly { what, ending, said });
        }
        std::fs::rename(&new, &overlay).map_err(cannot("name the VM's disk"))
    }

    fn launch<'a>(
        &self,
        instance: InstanceId,
        part: &str,
        program: &'a Path,
        log: &'a Path,
        folder: &'a Path,
    ) -> Launch<'a> {
        Launch {
            program,
            user: self.user_of(instance),
            group: None,
            scope: format!("moorline-{instance}-{part}"),
            folder,
            log,
        }
    }

    fn qemu_log(&self, instance: InstanceId) -> PathBuf {
        self.records.folder(instance).join(QEMU_LOG)
    }

    fn device_log(&self, instance: InstanceId) -> PathBuf {
        self.records.folder(instance).join(DEVICE_LOG)
    }

    /// Cuts what the VMs' processes have written to their logs, so that none fills the host's disk. It blocks the thread.
    fn bound_logs(records: &Records) -> io::Result<()> {
        for instance in records.instances().map_err(io::Error::other)? {
            for log in [QEMU_LOG, DEVICE_LOG] {
                launch::bound(&records.folder(instance).join(log))?;
            }
        }
        Ok(())
    }

    /// Keeps the logs of all VMs small until it is cancelled. Cancel-safe.
    pub(super) async fn watch_logs(&self) {
        loop {
            sleep(BETWEEN_LOGS).await;
            let records = self.records.clone();
            if let Err(error) = blocking(move || Self::bound_logs(&records)).await {
                tracing::error!(%error, "can't keep the logs of VMs small");
            }
        }
    }

    /// Finds the VM of these processes again, if it still runs and answers.
    pub(super) fn adopt(
        &self,
        instance: InstanceId,
        incarnation: u64,
        processes: &Processes,
    ) -> Result<Option<Adopted>, StartError> {
        if another_boot(processes)? {
            return Ok(None);
        }
        let Some(vmm) = Process::find(processes.vmm).map_err(cannot("look for QEMU"))? else {
            return Ok(None);
        };
        let folder = self.records.run_folder(instance);
        let key = self.records.link_key(instance, incarnation)?;
        let (device, channel) = find_device(processes.vsock, &folder, key.as_ref())?;
        let socket = command::qmp_socket(&folder);
        // Without a conversation yet: the first thing the VM's events do is to begin one and ask how it is.
        let qmp = None;
        let vm = Vm {
            vmm,
            device,
            socket,
            qmp,
        };
        Ok(Some(Adopted { vm, channel }))
    }

    /// Ends everything that was ever started for the instance and still runs, and takes away the key that may lie there for
    /// its QEMU.
    pub(super) async fn clear(&self, instance: InstanceId) -> io::Result<()> {
        let logs = [self.qemu_log(instance), self.device_log(instance)];
        let one_at_a_time = self.looking.lock().await;
        let found = blocking(move || writing_to(&logs)).await?;
        drop(one_at_a_time);
        for mut process in found {
            process.kill()?;
            process.ended().await;
        }
        remove_if_there(&command::link_key(&self.records.run_folder(instance)))
    }
}

/// Whether these processes were of an earlier boot of the host.
pub(super) fn another_boot(processes: &Processes) -> Result<bool, StartError> {
    let boot = boot_id().map_err(cannot("read the host's boot id"))?;
    Ok(processes.boot != boot)
}

fn find_device(
    vsock: Vsock,
    folder: &Path,
    key: Option<&SecretKey>,
) -> Result<(Device, Option<ChannelSpec>), StartError> {
    let process = match vsock {
        Vsock::Kernel { cid } => return Ok((Device::Kernel, Some(ChannelSpec::Vsock { cid }))),
        Vsock::Process { process } => process,
    };
    let found = Process::find(process).map_err(cannot("look for the vsock device"))?;
    Ok(found.map_or((Device::Lost, None), |process| {
        // Without its key the guest's root can't be told from its other processes, and nobody is let in.
        let channel = key.map(|key| hybrid(folder, &process, key));
        (Device::Process(process), channel)
    }))
}

/// Does on another thread what would hold up all tasks of this one. Cancelled, it is done all the same.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Looks again and again until the process is up, it ends, or it takes too long.
async fn come_up<T, L>(
    what: &'static str,
    process: &mut Process,
    log: &Path,
    mut look: impl FnMut() -> L,
) -> Result<T, StartError>
where
    L: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    let up = async {
        loop {
            if let Some(up) = look().await {
                return up;
            }
            sleep(BETWEEN_LOOKS).await;
        }
    };
    // Cancel-safe: whichever branch ends first decides, and the other's half-made connection is of no use then.
    tokio::select! {
        up = timeout_at(deadline, up) => up.map_err(|_| StartError::Late { what, said: last_line(log) }),
        ending = process.ended() => Err(StartError::EndedEarly { what, ending, said: last_line(log) }),
    }
}
