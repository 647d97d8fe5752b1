//! What the kernel tells of a socket and no safe wrapper passes on whole: the agent's only unsafe code.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::libc::{self, SO_PEERGROUPS, SOL_SOCKET, gid_t, socklen_t};

/// Room for the groups of a process: processes have a dozen.
const MOST_GROUPS: usize = 1024;

/// The supplementary groups that the process at the other end of a unix socket had when it connected (`SO_PEERGROUPS`,
/// Linux 4.13).
///
/// Fails with `ERANGE` if there is no room for all of them, with `ENOPROTOOPT` on an older kernel, and with `ENODATA` if
/// nobody is known to be at the other end.
pub(super) fn peer_groups(socket: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    let mut groups = [0; MOST_GROUPS];
    let mut length = socklen_t::try_from(size_of_val(&groups)).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: the kernel writes at most `length` bytes to `groups`, which has so many, and to `length` how many it wrote.
    // Both outlive the call, and whatever bits are written are numbers.
    let said = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            SOL_SOCKET,
            SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    Errno::result(said)?;
    let count = length as usize / size_of::<gid_t>();
    Ok(groups.iter().take(count).copied().collect())
}
