//! Hybrid vsock: the VM's device connects to a unix socket beside its own for each connection that its guest makes.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use moorline_shared::link::PORT;
use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, UCred};

use super::{ChannelError, ExpectedPeer};

/// How many connections may wait to be accepted. A device may stand still where there is no room for one more, with all
/// that its guest has to say.
const BACKLOG: i32 = 128;
/// The longest name of a device's file, so that `/proc/self/fd/N/NAME_8470.new` fits a socket's address.
const MAX_NAME: usize = 64;

/// The socket of one guest, listening. It lies beneath a directory that was found good, by descriptor.
#[derive(Debug)]
pub struct HybridListener {
    socket: OwnedFd,
    name: Name,
    peer: ExpectedPeer,
}

/// A socket that is whole but for its name: it doesn't touch one that lies there. Dropping this removes it.
#[derive(Debug)]
pub struct PreparedListener {
    listener: HybridListener,
    wanted: OsString,
    uds_path: PathBuf,
}

/// The name that a socket has now; dropping this removes it, unless a later socket has it.
#[derive(Debug)]
struct Name {
    directory: OwnedFd,
    file: OsString,
    /// The inode of our socket's name: another one by the same name is not ours to remove.
    inode: u64,
}

impl PreparedListener {
    /// Binds beside `<uds_path>_8470`, with its owner and mode, and listens.
    ///
    /// Fails when the path names no device, its directory is not to be trusted or can't be used, or something that is
    /// no socket lies there. Nothing is changed then.
    pub fn bind(uds_path: &Path, peer: ExpectedPeer) -> Result<Self, ChannelError> {
        let (directory, wanted) = split(uds_path)?;
        let failed = |step| failed(step, uds_path);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            fs::openat(CWD, directory, flags, Mode::empty()).map_err(failed("open the directory"))?;
        let stat = fs::fstat(&directory).map_err(failed("look at the directory"))?;
        if !is_trusted(&stat, peer) {
            return Err(ChannelError::Untrusted {
                path: uds_path.to_owned(),
            });
        }
        is_there(&directory, &wanted).map_err(failed("replace what lies in the place of the socket"))?;
        let mut new = wanted.clone();
        new.push(".new");
        remove_stale(&directory, &new).map_err(failed("remove the old socket"))?;
        let (socket, name) = bind_at(directory, new, peer).map_err(failed("bind the socket"))?;
        Ok(Self {
            listener: HybridListener { socket, name, peer },
            wanted,
            uds_path: uds_path.to_owned(),
        })
    }

    /// Gives it its name, in one step. A socket of that name is replaced.
    ///
    /// Fails when the system refuses; what had the name still has it then.
    pub fn publish(mut self) -> Result<HybridListener, ChannelError> {
        let Name { directory, file, .. } = &self.listener.name;
        let named = fs::renameat(directory, file, directory, &self.wanted);
        named.map_err(failed("name the socket", &self.uds_path))?;
        self.listener.name.file = self.wanted;
        Ok(self.listener)
    }
}

impl AsFd for PreparedListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl HybridListener {
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

impl Drop for Name {
    fn drop(&mut self) {
        if inode(&self.directory, &self.file) == Ok(self.inode) {
            // A name that can't be removed leads to a socket that nobody listens on.
            let _ = fs::unlinkat(&self.directory, &self.file, AtFlags::empty());
        }
    }
}

impl ExpectedPeer {
    fn is(self, from: &UCred) -> bool {
        match self {
            Self::Owner => from.uid.is_root() || from.uid == rustix::process::geteuid(),
            Self::User(uid) => from.uid.as_raw() == uid,
            Self::Process { process, .. } => {
                from.pid.as_raw_nonzero().get() == process.pid && process.is_there()
            }
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
    let known = owner == 0 || owner == rustix::process::geteuid().as_raw() || peer.user() == Some(owner);
    known && directory.st_mode & 0o022 == 0
}

/// Whether a socket lies there. Anything else is not ours to replace.
fn is_there(directory: &OwnedFd, name: &OsString) -> Result<bool, Errno> {
    match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => Ok(true),
        Ok(_) => Err(Errno::EXIST),
    }
}

fn remove_stale(directory: &OwnedFd, name: &OsString) -> Result<(), Errno> {
    if is_there(directory, name)? {
        fs::unlinkat(directory, name, AtFlags::empty())?;
    }
    Ok(())
}

/// Nobody can connect before owner and mode are right, because the socket listens only then.
fn bind_at(directory: OwnedFd, file: OsString, peer: ExpectedPeer) -> Result<(OwnedFd, Name), Errno> {
    use std::os::fd::AsRawFd;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // A socket's file gets the mode that the socket has. Set later by its name, it could hit what the directory's owner
    // put there meanwhile.
    fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    // A socket's address takes no directory's descriptor; this path is the same.
    let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string());
    net::bind(&socket, &SocketAddrUnix::new(path.join(&file))?)?;
    let (held, inode) = hold_ours(&directory, &file)?;
    let name = Name {
        directory,
        file,
        inode,
    };
    if let Some(uid) = peer.user()
        && uid != rustix::process::geteuid().as_raw()
    {
        let owner = Some(Uid::from_raw(uid));
        fs::chownat(&held, "", owner, None, AtFlags::EMPTY_PATH)?;
    }
    net::listen(&socket, BACKLOG)?;
    Ok((socket, name))
}

/// Holds the socket of this name, which is to be one of the daemon's own, and says which inode it is. The directory's owner
/// may have put something else there by now, which must not be given away by its name.
pub(super) fn hold_ours(directory: &OwnedFd, name: &OsString) -> Result<(OwnedFd, u64), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = fs::openat(directory, name, flags, Mode::empty())?;
    let stat = fs::fstat(&held)?;
    let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
    if !is_socket || stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_nlink != 1 {
        return Err(Errno::EXIST);
    }
    Ok((held, stat.st_ino))
}

/// Gives an error of the system its context.
fn failed(step: &'static str, uds_path: &Path) -> impl FnOnce(Errno) -> ChannelError {
    move |source| ChannelError::System {
        step,
        path: uds_path.to_owned(),
        source,
    }
}

fn inode(directory: &OwnedFd, name: &OsString) -> Result<u64, Errno> {
    fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| stat.st_ino)
}
