//! `AF_VSOCK`: one port for all guests of the host; the kernel vouches for the CID that a connection comes from.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use moorline_shared::InstanceId;
use moorline_shared::link::PORT;
use rustix::io::Errno;
use vsock::{VMADDR_CID_ANY, VsockListener};

use super::ChannelError;

/// The lowest CID of a guest: below are the hypervisor, the local one and the host.
const FIRST_CID: u32 = 3;
/// A guest's kernel lets only a privileged process bind a source port below this.
const FIRST_UNPRIVILEGED_PORT: u32 = 1024;

/// Which instance has which CID now.
#[derive(Debug, Default)]
pub struct Cids(Mutex<HashMap<u32, InstanceId>>);

impl Cids {
    /// From now on connections from `cid` are the instance's. Returns the CID that it had before, whose connections are
    /// nobody's now. One that another instance holds stays with that.
    pub fn assign(&self, cid: u32, instance: InstanceId) -> Result<Option<u32>, ChannelError> {
        if !(FIRST_CID..VMADDR_CID_ANY).contains(&cid) {
            return Err(ChannelError::Cid(cid));
        }
        let mut holders = self.lock();
        if let Some(holder) = holders.get(&cid).copied().filter(|holder| *holder != instance) {
            return Err(ChannelError::CidTaken { cid, holder });
        }
        let before = holders.iter().find(|(_, holder)| **holder == instance);
        let before = before.map(|(cid, _)| *cid);
        holders.retain(|_, holder| *holder != instance);
        holders.insert(cid, instance);
        Ok(before)
    }

    /// Undoes [`Self::assign`]: the instance has the CID again that it had before, unless that is another's by now.
    pub fn give_back(&self, instance: InstanceId, before: Option<u32>) {
        let mut holders = self.lock();
        holders.retain(|_, holder| *holder != instance);
        if let Some(cid) = before {
            holders.entry(cid).or_insert(instance);
        }
    }

    /// The instance has no CID any more.
    pub fn release(&self, instance: InstanceId) {
        self.lock().retain(|_, holder| *holder != instance);
    }

    pub(super) fn holder(&self, cid: u32) -> Option<InstanceId> {
        self.lock().get(&cid).copied()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, InstanceId>> {
        // Each change is one call on the map, so it is whole even if a thread died.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The daemon can't listen.
#[derive(Debug, thiserror::Error)]
#[error(
    "can't listen on AF_VSOCK port {PORT}: load vhost_vsock and end whoever has the port, or set link.vsock to \"off\""
)]
pub struct VsockError(#[source] std::io::Error);

impl VsockError {
    /// Whether this process can't have `AF_VSOCK` at all: the kernel lacks it, or a container keeps it from its processes.
    /// Anything else passes, or is somebody's mistake.
    pub fn is_lack(&self) -> bool {
        let errno = Errno::from_io_error(&self.0);
        matches!(errno, Some(Errno::AFNOSUPPORT | Errno::NODEV | Errno::PERM))
    }
}

/// The port, listening.
#[derive(Debug)]
pub struct VsockPort(VsockListener);

/// What came of waiting for a connection.
#[derive(Debug)]
pub enum Arrival {
    /// The privileged part of a guest.
    Guest {
        /// Whose the CID was.
        instance: InstanceId,
        /// Where it came from.
        cid: u32,
        /// The connection.
        socket: OwnedFd,
    },
    /// Nobody who may speak; the connection is closed.
    Stranger {
        /// Where it came from.
        cid: u32,
        /// From which port.
        port: u32,
    },
}

impl VsockPort {
    /// Listens on the port.
    pub fn open() -> Result<Self, VsockError> {
        let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, PORT).map_err(VsockError)?;
        listener.set_nonblocking(true).map_err(VsockError)?;
        Ok(Self(listener))
    }

    /// The next connection; an error of kind `WouldBlock` if none waits.
    pub fn accept(&self, cids: &Cids) -> std::io::Result<Arrival> {
        let (stream, from) = self.0.accept()?;
        let (cid, port) = (from.cid(), from.port());
        let guests_root = is_a_guests_root(cid, port);
        match guests_root.then(|| cids.holder(cid)).flatten() {
            None => Ok(Arrival::Stranger { cid, port }),
            Some(instance) => {
                stream.set_nonblocking(true)?;
                let socket = stream.into();
                Ok(Arrival::Guest {
                    instance,
                    cid,
                    socket,
                })
            }
        }
    }
}

/// Whether a connection can be of a guest's root, by where it comes from. Looked at before anything else is.
const fn is_a_guests_root(cid: u32, port: u32) -> bool {
    FIRST_CID <= cid && cid < VMADDR_CID_ANY && port < FIRST_UNPRIVILEGED_PORT
}

impl AsFd for VsockPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::{VsockError, is_a_guests_root};
    use rustix::io::Errno;

    #[test]
    fn a_port_that_another_daemon_has_is_no_lack() {
        let failed = |errno: Errno| VsockError(errno.into());
        for lacking in [Errno::AFNOSUPPORT, Errno::NODEV, Errno::PERM] {
            assert!(failed(lacking).is_lack(), "{lacking}");
        }
        for other in [Errno::ADDRINUSE, Errno::ACCESS, Errno::MFILE, Errno::NOMEM] {
            assert!(!failed(other).is_lack(), "{other}");
        }
    }

    #[test]
    fn only_privileged_ports_of_guests_are_looked_at() {
        assert!(is_a_guests_root(3, 0) && is_a_guests_root(u32::MAX - 1, 1023));
        for port in [1024, 1025, 8470, u32::MAX] {
            assert!(!is_a_guests_root(3, port), "port {port}");
        }
        for cid in [0, 1, 2, u32::MAX] {
            assert!(!is_a_guests_root(cid, 1), "CID {cid}");
        }
    }
}
