//! Connecting over `AF_VSOCK`.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::libc::VMADDR_CID_ANY;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, VsockAddr, bind, connect, getsockopt, socket, sockopt,
};
use tokio::io::Interest;
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

/// Waits until the kernel says that a connection broke, and answers with how. Dropping the future is harmless.
///
/// Whoever waits for bytes is not told: when a guest's vsock device is reset or taken out, as in a machine that goes on
/// from a snapshot, Linux leaves the connections with an error and without an end.
pub async fn until_broken(socket: OwnedFd) -> io::Error {
    let broken = async {
        // As in `until_writable`.
        let socket = UnixStream::from_std(socket.into())?;
        socket.ready(Interest::ERROR).await?;
        socket.take_error()
    };
    match broken.await {
        Ok(Some(error)) => error,
        // Somebody else was told already.
        Ok(None) => io::ErrorKind::ConnectionReset.into(),
        // Then it takes a heartbeat that isn't answered.
        Err(error) => {
            tracing::debug!(%error, "can't wait for the end of a connection");
            std::future::pending().await
        }
    }
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

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::io::ErrorKind;
    use std::task::{Context, Waker};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    use super::until_broken;
    use crate::test_host::run;

    /// A unix socket is broken by whoever closes it without having read all.
    #[test]
    fn that_a_connection_broke_is_told_and_that_bytes_came_is_not() {
        run(async {
            let (mut own, mut other) = UnixStream::pair().unwrap();
            let socket = std::os::fd::AsFd::as_fd(&own).try_clone_to_owned().unwrap();
            let mut broken = std::pin::pin!(until_broken(socket));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(broken.as_mut().poll(&mut cx).is_pending());
            other.write_all(b"said").await.unwrap();
            own.read_exact(&mut [0; 4]).await.unwrap();
            assert!(broken.as_mut().poll(&mut cx).is_pending());
            own.write_all(b"unread").await.unwrap();
            drop(other);
            assert_eq!(broken.await.kind(), ErrorKind::ConnectionReset);
        });
    }
}
