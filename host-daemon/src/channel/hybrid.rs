//! Hybrid vsock: the VM's device connects to a unix socket beside its own for each connection that its guest makes.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use moorline_shared::link::PORT;
use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, UCred};

use super::{ChannelError, ExpectedPeer};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 16;
/// The longest name of a device's file, so that `/proc/self/fd/N/NAME_8470` fits a socket's address.
const MAX_NAME: usize = 64;

/// The socket of one guest, listening. It lies beneath a directory that was found good, by descriptor.
#[derive(Debug)]
pub struct HybridListener {
    socket: OwnedFd,
    directory: OwnedFd,
    name: OsString,
    peer: ExpectedPeer,
    /// The inode of our socket's name: another one by the same name is not ours to remove.
    inode: u64,
}

impl HybridListener {
    /// Binds `<uds_path>_8470`. A socket of that name that is left over is replaced.
    pub fn bind(uds_path: &Path, peer: ExpectedPeer) -> Result<Self, ChannelError> {
        let (directory, name) = split(uds_path)?;
        let failed = |step| {
            move |source| ChannelError::System {
                step,
                path: uds_path.to_owned(),
                source,
            }
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            fs::openat(CWD, directory, flags, Mode::empty()).map_err(failed("open the directory"))?;
        let stat = fs::fstat(&directory).map_err(failed("look at the directory"))?;
        if !is_trusted(&stat, peer) {
            return Err(ChannelError::Untrusted {
                path: uds_path.to_owned(),
            });
        }
        remove_stale(&directory, &name).map_err(failed("remove the old socket"))?;
        let socket = bind_at(&directory, &name, peer).map_err(failed("bind the socket"))?;
        let inode = inode(&directory, &name).map_err(failed("look at the socket"))?;
        Ok(Self {
            socket,
            directory,
            name,
            peer,
            inode,
        })
    }

    /// The next connection, or `None` if none waits. A connection of anybody but the expected peer is closed and told
    /// as [`Accepted::Stranger`].
    pub fn accept(&self) -> Result<Option<Accepted>, Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = match net::accept_with(&self.socket, flags) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => return Ok(None),
            Err(error) => return Err(error),
        };
        let from = net::sockopt::socket_peercred(&socket)?;
        if self.peer.is(&from) {
            Ok(Some(Accepted::Guest(socket)))
        } else {
            Ok(Some(Accepted::Stranger {
                uid: from.uid.as_raw(),
                pid: from.pid.as_raw_nonzero().get(),
            }))
        }
    }
}

/// Who connected.
#[derive(Debug)]
pub enum Accepted {
    /// The device of the VM, for its guest.
    Guest(OwnedFd),
    /// Somebody else; the connection is closed.
    Stranger {
        /// As whom it runs.
        uid: u32,
        /// Its process.
        pid: i32,
    },
}

impl AsFd for HybridListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for HybridListener {
    /// Removes the socket's name, unless a later socket has it.
    fn drop(&mut self) {
        if inode(&self.directory, &self.name) == Ok(self.inode) {
            // A name that can't be removed leads to a socket that nobody listens on.
            let _ = fs::unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}

impl ExpectedPeer {
    fn is(self, from: &UCred) -> bool {
        match self {
            Self::Owner => from.uid.is_root() || from.uid == rustix::process::geteuid(),
            Self::User(uid) => from.uid.as_raw() == uid,
            Self::Process(pid) => u32::try_from(from.pid.as_raw_nonzero().get()) == Ok(pid),
        }
    }
}

fn split(uds_path: &Path) -> Result<(PathBuf, OsString), ChannelError> {
    let refuse = || ChannelError::Path {
        path: uds_path.to_owned(),
    };
    let name = uds_path.file_name().filter(|name| name.len() <= MAX_NAME);
    let (Some(name), Some(parent), true) = (name, uds_path.parent(), uds_path.is_absolute()) else {
        return Err(refuse());
    };
    let mut name = name.to_owned();
    name.push(format!("_{PORT}"));
    Ok((parent.to_owned(), name))
}

/// Whoever may write to the directory may put another socket there, so that must be nobody but its owner.
fn is_trusted(directory: &fs::Stat, peer: ExpectedPeer) -> bool {
    let owner = directory.st_uid;
    let known = owner == 0
        || owner == rustix::process::geteuid().as_raw()
        || matches!(peer, ExpectedPeer::User(uid) if uid == owner);
    known && directory.st_mode & 0o022 == 0
}

fn remove_stale(directory: &OwnedFd, name: &OsString) -> Result<(), Errno> {
    match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => {
            fs::unlinkat(directory, name, AtFlags::empty())
        }
        Ok(_) => Err(Errno::EXIST),
    }
}

/// Nobody can connect before the permissions are right, because the socket listens only then.
fn bind_at(directory: &OwnedFd, name: &OsString, peer: ExpectedPeer) -> Result<OwnedFd, Errno> {
    use std::os::fd::AsRawFd;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // A socket's address takes no directory's descriptor; this path is the same.
    let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string());
    net::bind(&socket, &SocketAddrUnix::new(path.join(name))?)?;
    fs::chmodat(directory, name, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
    if let ExpectedPeer::User(uid) = peer
        && uid != rustix::process::geteuid().as_raw()
    {
        let owner = Some(Uid::from_raw(uid));
        fs::chownat(directory, name, owner, None, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn inode(directory: &OwnedFd, name: &OsString) -> Result<u64, Errno> {
    fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| stat.st_ino)
}
