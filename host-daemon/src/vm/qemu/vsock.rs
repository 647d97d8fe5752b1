//! A guest's vsock: the kernel's device with a leased CID, or a process beside QEMU.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::link::PortState;
use crate::vm::config::VsockDevice;
use crate::vm::kernel::set_guest_cid;

const DEVICE: &str = "/dev/vhost-vsock";
/// How many CIDs in a row may be others' before the search is given up.
const TRIES: u32 = 65_536;
const BEGIN_WITHIN: u32 = 1 << 24;

/// A CID that is a guest's for as long as anybody holds the descriptor.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) cid: u32,
    pub(super) device: OwnedFd,
}

/// Why no CID can be leased.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The device can't be used.
    #[error("can't {what} {DEVICE}; `modprobe vhost_vsock` may help, or qemu.vsock = \"vhost-user\"")]
    Device {
        /// What was tried, as a verb.
        what: &'static str,
        /// Why not.
        source: Errno,
    },
    /// All are taken.
    #[error("{TRIES} CIDs in a row are taken, from {from} on")]
    NoneFree {
        /// The first that was tried.
        from: u32,
    },
}

/// The CIDs that are leased next. Going round from anywhere makes it long until one is used again, by the next daemon
/// too. (That it would be safe is not a reason to confuse whoever reads a log.)
#[derive(Debug)]
pub(super) struct Cids {
    first: u32,
    next: AtomicU32,
}

impl Cids {
    /// All from `first` on, beginning somewhere in the first sixteen million of them.
    pub(super) fn from(first: u32) -> Self {
        let somewhere = getrandom::u32().unwrap_or_default() % BEGIN_WITHIN;
        Self::beginning(first, first.saturating_add(somewhere).min(u32::MAX - 1))
    }

    fn beginning(first: u32, next: u32) -> Self {
        Self {
            first,
            next: AtomicU32::new(next),
        }
    }

    /// The next CID that nobody on this host has; the kernel decides who has one.
    pub(super) fn lease(&self) -> Result<Lease, LeaseError> {
        let device = open(Path::new(DEVICE)).map_err(|source| LeaseError::Device { what: "open", source })?;
        let from = self.next.load(Ordering::Relaxed);
        for _ in 0..TRIES {
            let cid = self.candidate();
            match set_guest_cid(device.as_fd(), cid) {
                Ok(()) => return Ok(Lease { cid, device }),
                Err(Errno::ADDRINUSE) => (),
                Err(source) => {
                    let what = "set the CID of";
                    return Err(LeaseError::Device { what, source });
                }
            }
        }
        Err(LeaseError::NoneFree { from })
    }

    /// Every number from the first on, but for the last: that one means any.
    fn candidate(&self) -> u32 {
        let following = |cid: u32| if cid >= u32::MAX - 1 { self.first } else { cid + 1 };
        let taken = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |cid| Some(following(cid)));
        taken.unwrap_or(self.first)
    }
}

/// Whether the kernel has a vsock device for guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernels {
    Usable,
    Missing,
}

/// Which vsock device a guest gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Kernels,
    Process,
}

/// That the device's node exists proves nothing: it is there before the module is.
pub(super) fn kernels() -> Kernels {
    match open(Path::new(DEVICE)) {
        Ok(_) => Kernels::Usable,
        Err(_) => Kernels::Missing,
    }
}

/// The kernel's device is of no use where nobody listens for those who come by it.
pub(super) fn choose(wanted: VsockDevice, port: PortState, kernels: Kernels) -> Choice {
    match (wanted, port, kernels) {
        (VsockDevice::Vhost, ..) | (VsockDevice::Auto, PortState::Listening, Kernels::Usable) => {
            Choice::Kernels
        }
        (VsockDevice::VhostUser | VsockDevice::Auto, ..) => Choice::Process,
    }
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::{Choice, Cids, Kernels, choose};
    use crate::link::PortState;
    use crate::vm::config::VsockDevice;

    #[test]
    fn the_kernels_device_is_chosen_where_it_is_and_somebody_listens() {
        for (wanted, port, kernels, expected) in [
            (
                VsockDevice::Auto,
                PortState::Listening,
                Kernels::Usable,
                Choice::Kernels,
            ),
            (
                VsockDevice::Auto,
                PortState::Closed,
                Kernels::Usable,
                Choice::Process,
            ),
            (
                VsockDevice::Auto,
                PortState::Listening,
                Kernels::Missing,
                Choice::Process,
            ),
            (
                VsockDevice::Vhost,
                PortState::Closed,
                Kernels::Missing,
                Choice::Kernels,
            ),
            (
                VsockDevice::VhostUser,
                PortState::Listening,
                Kernels::Usable,
                Choice::Process,
            ),
        ] {
            assert_eq!(
                choose(wanted, port, kernels),
                expected,
                "{wanted:?} {port:?} {kernels:?}"
            );
        }
    }

    #[test]
    fn candidates_go_round_and_never_reach_the_last_number() {
        let cids = Cids::beginning(3, 3);
        assert_eq!([cids.candidate(), cids.candidate()], [3, 4]);
        let cids = Cids::beginning(u32::MAX - 1, u32::MAX - 1);
        assert_eq!([cids.candidate(), cids.candidate()], [u32::MAX - 1, u32::MAX - 1]);
    }
}
