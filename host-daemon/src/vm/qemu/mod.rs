//! The driver that runs VMs by itself, with QEMU.
//!
//! [`Qemu::vsock`] prepares the guest's way to the host, so that the channel can be bound before there is a guest;
//! [`Qemu::boot`] then starts QEMU ([`command`] is its command line) and waits until it answers. [`Qemu::adopt`]
//! finds a VM of an earlier daemon again, and [`Qemu::clear`] ends whatever runs in an instance's name. A [`vm::Vm`]
//! is what one talks with from then on.

mod accel;
mod boot;
mod command;
mod error;
mod handed;
mod launch;
pub(super) mod vm;
mod vsock;
mod way;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use moorline_shared::InstanceId;
use tokio::sync::{Mutex, OnceCell};
use tokio::time::{Instant, sleep, timeout_at};

use self::command::Engine;
use self::launch::{Launch, last_line};
use self::vm::Vm;
use self::vsock::Cids;
use self::way::find_device;
use super::config::{Images, QemuConfig, Tables};
use super::process::{Process, boot_id, writing_to};
use super::record::{Processes, Reach, Records};
use crate::channel::ChannelSpec;
use crate::link::PortState;

pub use self::error::StartError;
use self::error::cannot;
pub use self::vsock::LeaseError;

/// For a process to make its socket. An idle machine takes some 50 ms.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at whether it has.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
/// Between two looks at how large the logs are. What a VM's processes write meanwhile is not bounded by anything else.
const BETWEEN_LOGS: Duration = Duration::from_secs(10);
const QEMU_LOG: &str = "qemu.log";
const DEVICE_LOG: &str = "vsock-device.log";
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

    /// The user as whom the processes of an instance's VM run; none for the daemon's own.
    fn user_of(&self, instance: InstanceId) -> Option<u32> {
        self.config.user_base.and_then(|_| self.records.user(instance))
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
