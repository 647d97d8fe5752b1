//! The socket's file: made where none is served, and removed where it is still our own.

use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use crate::local::surface::{Arrival, Door};
use crate::platform::peer_of;

/// What a client hears that comes when all connections are taken.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: application/problem+json\r\n\
    Retry-After: 1\r\nContent-Length: 156\r\n\r\n{\"type\":\"too-many-connections\",\"title\":\"Too many connections\",\"status\":503,\
    \"detail\":\"the agent serves no more connections at once; close some or try later\"}";

/// Every local program may connect and read; who may change data is asked of the connection.
const SOCKET_MODE: u32 = 0o666;
const FOLDER_MODE: u32 = 0o755;

/// The socket can't be served.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The folder can't be made.
    #[error("can't make the folder of the socket {}; run as root or choose another with --socket", path.display())]
    Folder {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another agent answers there.
    #[error("another agent already serves {}; stop it or choose another socket with --socket", path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// Something that no agent left behind.
    #[error("{} is there and is no socket: move it away, or choose another path with --socket", path.display())]
    InTheWay {
        /// What is there.
        path: PathBuf,
    },
    /// It can't be bound.
    #[error("can't serve the socket {}; run as root or choose another with --socket", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A socket that is bound, and the file that is its own.
#[derive(Debug)]
pub(in crate::local) struct Bound {
    listener: UnixListener,
    path: PathBuf,
    file: FileId,
}

/// A file, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn at(path: &Path) -> io::Result<Self> {
        let file = path.symlink_metadata()?;
        Ok(Self {
            device: file.dev(),
            inode: file.ino(),
        })
    }
}

impl Door for Bound {
    type Stream = UnixStream;

    async fn accept(&mut self) -> io::Result<Arrival<UnixStream>> {
        let (stream, _) = self.listener.accept().await?;
        Ok(match peer_of(&stream) {
            Ok(peer) => Arrival::Program(stream, peer),
            Err(_) => Arrival::Stranger,
        })
    }

    fn turn_away(&self, stream: UnixStream) {
        // The kernel takes these few bytes of a new connection at once, or the client does without.
        let _ = stream.into_std().and_then(|mut stream| stream.write(FULL));
    }

    /// Removes the file, too, unless it has become another's: what is left would be taken for an agent that died.
    fn close(self) {
        // While the listener lives, no other file has its number.
        if FileId::at(&self.path).is_ok_and(|file| file == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Binds the socket, in place of one that an agent that is gone left behind.
pub(super) async fn bind(path: &Path) -> Result<Bound, BindError> {
    make_folder(path).map_err(|source| BindError::Folder {
        path: path.into(),
        source,
    })?;
    // A file that is no socket refuses connections as a socket does on which nobody listens.
    if path
        .symlink_metadata()
        .is_ok_and(|file| !file.file_type().is_socket())
    {
        return Err(BindError::InTheWay { path: path.into() });
    }
    if is_served(path).await {
        return Err(BindError::Taken { path: path.into() });
    }
    bind_anew(path).map_err(|source| BindError::Bind {
        path: path.into(),
        source,
    })
}

/// Whether somebody listens there. Only a refusal says that nobody does: an agent may be too busy to take another
/// connection, or not be this user's to connect to.
async fn is_served(path: &Path) -> bool {
    let nobody = [io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound];
    match UnixStream::connect(path).await {
        Ok(_) => true,
        Err(error) => !nobody.contains(&error.kind()),
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.exists() => {
            std::fs::create_dir_all(folder)?;
            std::fs::set_permissions(folder, PermissionsExt::from_mode(FOLDER_MODE))
        }
        _ => Ok(()),
    }
}

fn bind_anew(path: &Path) -> io::Result<Bound> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(SOCKET_MODE))?;
    Ok(Bound {
        listener,
        file: FileId::at(path)?,
        path: path.into(),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_full_answer_is_as_long_as_it_says() {
        let text = std::str::from_utf8(super::FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length: usize = head
            .split("Content-Length: ")
            .nth(1)
            .unwrap()
            .lines()
            .next()
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(body.len(), length);
    }
}
