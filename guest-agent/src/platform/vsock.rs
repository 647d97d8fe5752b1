//! Connecting over `AF_VSOCK`.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::libc::VMADDR_CID_ANY;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, VsockAddr, bind, connect, getsockopt, socket, sockopt,
};
use tokio::net::UnixStream;
use tokio_vsock::VsockStream;

/// The context id under which every guest finds its host.
pub const HOST_CID: u32 = nix::libc::VMADDR_CID_HOST;

/// Source ports that only the guest's root may bind, from the first on.
const PRIVILEGED: std::ops::Range<u32> = 512..1024;

/// Connects to `port` of the machine `cid`, from a source port that only root may use if this process may.
///
/// It never ends by itself if the other side doesn't answer, so callers set a limit. Dropping the future closes the
/// socket.
pub async fn connect_vsock(cid: u32, port: u32) -> io::Result<VsockStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
    bind_privileged(&socket)?;
    match connect(socket.as_raw_fd(), &VsockAddr::new(cid, port)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let socket = until_writable(socket).await?;
    match getsockopt(&socket, sockopt::SocketError)? {
        0 => VsockStream::new(vsock::VsockStream::from(socket)),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Waits until a connection is made or has failed.
async fn until_writable(socket: OwnedFd) -> io::Result<OwnedFd> {
    // To the event queue a stream socket is a stream socket; this is tokio's safe way to wait for one of any family.
    let waiting = UnixStream::from_std(socket.into())?;
    waiting.writable().await?;
    Ok(waiting.into_std()?.into())
}

/// Binds a source port below 1024, so that the host can tell the guest's root from its users.
///
/// It begins anywhere in the range: a port that was just used may still be remembered by the host.
fn bind_privileged(socket: &OwnedFd) -> io::Result<()> {
    let first = PRIVILEGED.start + getrandom::u32()? % (PRIVILEGED.end - PRIVILEGED.start);
    for port in (first..PRIVILEGED.end).chain(PRIVILEGED.start..first) {
        match bind(socket.as_raw_fd(), &VsockAddr::new(VMADDR_CID_ANY, port)) {
            Ok(()) => return Ok(()),
            Err(Errno::EADDRINUSE) => {}
            Err(Errno::EACCES | Errno::EPERM) => {
                tracing::debug!("not root: connecting from an ordinary source port");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::EADDRINUSE.into())
}
