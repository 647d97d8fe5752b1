//! Channels: the sockets that guests dial, and whose they are. An instance is known by its channel and by nothing else.

mod hybrid;
#[cfg(test)]
mod tests;
mod vsock;

use std::path::{Path, PathBuf};

use moorline_shared::InstanceId;
use rustix::io::Errno;

use crate::link::Admission;
use crate::vm::process::Identity;

pub use hybrid::{Accepted, HybridListener, PreparedListener};
pub use vsock::{Arrival, Cids, VsockError, VsockPort};

/// The channel that a VM is given for one incarnation of its instance.
#[derive(Clone, Debug)]
pub enum ChannelSpec {
    /// Hybrid vsock: the VM's device hands connections to the unix socket `<uds_path>_8470`, which the daemon binds.
    HybridVsock {
        /// The device's own path. Its directory must exist, and only its owner may write to it: the daemon's user,
        /// root, or the expected peer.
        uds_path: PathBuf,
        /// Who may connect.
        peer: ExpectedPeer,
        /// By what the guest's root is told from its other processes.
        admission: Admission,
    },
    /// `AF_VSOCK`: connections come from this CID, 3 or more.
    Vsock {
        /// The VM's context id.
        cid: u32,
    },
}

/// Which process may connect to a hybrid vsock socket, by `SO_PEERCRED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedPeer {
    /// The daemon's own user, or root.
    Owner,
    /// Any process of this user; the socket is given to it.
    User(u32),
    /// This process, and no other one that has its id later.
    Process {
        /// Which.
        process: Identity,
        /// As whom it runs; the socket is given to that user.
        user: u32,
    },
}

impl ExpectedPeer {
    /// Whose the socket is to be; `None` for the daemon's own user.
    fn user(self) -> Option<u32> {
        match self {
            Self::Owner => None,
            Self::User(user) | Self::Process { user, .. } => Some(user),
        }
    }
}

/// Why a channel can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The path has no file name, or a longer one than a socket address takes.
    #[error("'{}' can't name a hybrid vsock device: give an absolute path whose file name has at most 64 bytes", path.display())]
    Path {
        /// What was given.
        path: PathBuf,
    },
    /// Others could put their own socket in the place of ours.
    #[error("the directory of '{}' can be written to by others than its owner, or its owner is nobody we trust", path.display())]
    Untrusted {
        /// The device's path.
        path: PathBuf,
    },
    /// Something that is not a socket is in the way, or the system refuses.
    #[error("can't {step} for the hybrid vsock device '{}'", path.display())]
    System {
        /// What was to be done.
        step: &'static str,
        /// The device's path.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: Errno,
    },
    /// The CID is the hypervisor's, the local one or the host's.
    #[error("CID {0} is no guest's: the lowest is 3, and 4294967295 is nobody's")]
    Cid(u32),
    /// The CID is another instance's, whose guest's connections would be taken for this one's.
    #[error("CID {cid} is that of {holder}: end or unregister that VM first, or give this one another CID")]
    CidTaken {
        /// The CID.
        cid: u32,
        /// Whose it is.
        holder: InstanceId,
    },
    /// The daemon doesn't listen on `AF_VSOCK`.
    #[error("AF_VSOCK is not listened on: set link.vsock, or load the kernel's module")]
    NoVsock,
}

impl ChannelError {
    /// The same for a device that whoever asked knows by another path: the one that is bound by may lead by way of a
    /// descriptor of this process.
    #[must_use]
    pub fn known_as(mut self, known: &Path) -> Self {
        match &mut self {
            Self::Path { path } | Self::Untrusted { path } | Self::System { path, .. } => {
                known.clone_into(path);
            }
            Self::Cid(_) | Self::CidTaken { .. } | Self::NoVsock => (),
        }
        self
    }
}
