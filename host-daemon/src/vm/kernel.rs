//! What the kernel offers and no safe wrapper does: the daemon's only unsafe code.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `VHOST_VSOCK_SET_GUEST_CID` of `linux/vhost.h`: `_IOW(VHOST_VIRTIO, 0x60, __u64)`.
const SET_GUEST_CID: Opcode = opcode::write::<u64>(0xAF, 0x60);

/// Gives a descriptor of `/dev/vhost-vsock` its CID for as long as it is open anywhere. Fails with `EADDRINUSE` if
/// another has it.
pub(super) fn set_guest_cid(device: BorrowedFd<'_>, cid: u32) -> Result<(), Errno> {
    // SAFETY: the kernel reads one u64 from where the request's opcode says it reads one, and writes nothing; on a
    // descriptor of any other device it refuses the request.
    unsafe { ioctl(device, Setter::<SET_GUEST_CID, u64>::new(u64::from(cid))) }
}

/// Makes a descriptor's readability awaitable. Must be called within a runtime.
pub(crate) fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is the only owner of its descriptor, always names the same one, and is closed only when
    // the `AsyncFd` that owns it from here on lets go of it.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    Ok(registered?)
}
