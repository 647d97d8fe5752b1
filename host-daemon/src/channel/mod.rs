//! Channels: the sockets that guests dial, and whose they are. An instance is known by its channel and by nothing else.

use std::path::PathBuf;

/// The channel that a VM is given for one incarnation of its instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelSpec {
    /// Hybrid vsock: the VM's device hands connections to the unix socket `<uds_path>_8470`, which the daemon binds.
    HybridVsock {
        /// The device's own path. Its directory must exist, and nobody but its owner and root may write to it.
        uds_path: PathBuf,
        /// Who may connect.
        peer: ExpectedPeer,
    },
    /// AF_VSOCK: connections come from this CID, 3 or more.
    Vsock {
        /// The VM's context id.
        cid: u32,
    },
}

/// Which process may connect to a hybrid vsock socket, by `SO_PEERCRED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedPeer {
    /// Whoever the directory's and the socket's permissions let through: the daemon's own user and root.
    Owner,
    /// This user; the socket is given to it.
    User(u32),
    /// This process, whoever it runs as.
    Process(u32),
}
