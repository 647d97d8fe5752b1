//! A guest's way to the host: the kernel's vsock device, or a process that is one.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use moorline_shared::InstanceId;
use moorline_shared::secret::SecretKey;

use super::vm::Device;
use super::{Qemu, StartError, cannot, come_up, command, remove_if_there, vsock};
use crate::channel::{ChannelSpec, ExpectedPeer};
use crate::link::Admission;
use crate::vm::link_key;
use crate::vm::process::Process;
use crate::vm::record::Vsock;

/// A vsock device of its own knows one guest only, so they may all have the same CID.
const SAME_CID: u32 = 3;

/// A guest's vsock that is ready for a QEMU.
#[derive(Debug)]
pub(in crate::vm) struct Ready {
    pub(super) way: Way,
    pub(super) folder: PathBuf,
}

#[derive(Debug)]
pub(super) enum Way {
    Kernel { cid: u32, device: OwnedFd },
    Process { process: Process, key: SecretKey },
}

impl Ready {
    /// Where the guest's connections will arrive, and from whom.
    pub(in crate::vm) fn channel(&self) -> ChannelSpec {
        match &self.way {
            Way::Kernel { cid, .. } => ChannelSpec::Vsock { cid: *cid },
            Way::Process { process, key } => hybrid(&self.folder, process, key),
        }
    }

    pub(super) fn device(&self) -> command::Device {
        match self.way {
            Way::Kernel { cid, .. } => command::Device::Kernel { cid },
            Way::Process { .. } => command::Device::Process,
        }
    }
}

impl Way {
    /// What QEMU gets as its standard input, what the VM holds of the device, and what is recorded of it.
    pub(super) fn plug(self) -> (Stdio, Device, Vsock) {
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

impl Qemu {
    /// Prepares the guest's vsock. Cancelled or failed, it may leave a process, which [`Self::clear`] ends.
    pub(in crate::vm) async fn vsock(
        &self,
        instance: InstanceId,
        incarnation: u64,
    ) -> Result<Ready, StartError> {
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
}

pub(super) fn find_device(
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
