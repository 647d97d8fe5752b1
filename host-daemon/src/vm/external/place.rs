//! Where the hybrid vsock socket of somebody else's VM may lie.
//!
//! The path comes from whoever may use register.sock, and the daemon binds a socket there as the user it runs as. So it
//! must lie beneath a folder that the configuration names, and every step down from there must be a folder and no
//! symbolic link. What is checked is what is used: the folder that was found is held open, and the socket is bound by
//! way of that descriptor, so that nobody can put something else in the folder's place in between.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Longer names don't fit into a socket's address together with the port.
const MAX_NAME: usize = 64;

/// Why a socket can't lie there.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Not beneath a folder of the configuration.
    #[error(
        "{} is not beneath one of the folders that external.directories of the host's configuration names",
        path.display()
    )]
    Outside {
        /// What was given.
        path: PathBuf,
    },
    /// Not a path that can be walked without looking back.
    #[error(
        "{} is not an absolute path of folders and a file name of 1 to {MAX_NAME} bytes, without . and ..",
        path.display()
    )]
    Form {
        /// What was given.
        path: PathBuf,
    },
    /// The folder can't be entered.
    #[error("the folder of {} can't be used: it must be there, without a symbolic link on the way", path.display())]
    Folder {
        /// What was given.
        path: PathBuf,
        /// What the kernel says.
        source: Errno,
    },
}

/// Which socket, however one came to it: the folder by its device and inode, and the name in there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    device: u64,
    inode: u64,
    name: std::ffi::OsString,
}

/// A place for a socket whose folder is held open.
#[derive(Debug)]
pub(super) struct Place {
    folder: OwnedFd,
    name: std::ffi::OsString,
}

impl Place {
    /// Finds the folder of `path` beneath one of `allowed`.
    pub(super) fn find(path: &Path, allowed: &[PathBuf]) -> Result<Self, PlaceError> {
        let form = || PlaceError::Form {
            path: path.to_owned(),
        };
        let name = path
            .file_name()
            .filter(|name| (1..=MAX_NAME).contains(&name.len()))
            .ok_or_else(form)?;
        if !is_plain(path) {
            return Err(form());
        }
        let outside = || PlaceError::Outside {
            path: path.to_owned(),
        };
        let beneath = |folder: &&PathBuf| path.strip_prefix(folder).is_ok_and(|rest| rest != Path::new(""));
        let root = allowed.iter().find(beneath).ok_or_else(outside)?;
        let inner = path
            .strip_prefix(root)
            .ok()
            .and_then(Path::parent)
            .ok_or_else(outside)?;
        let folder = enter(root, inner);
        let folder = folder.map_err(|source| PlaceError::Folder {
            path: path.to_owned(),
            source,
        })?;
        let name = name.to_owned();
        Ok(Self { folder, name })
    }

    /// Which socket lies there, or would; `path` is what was given.
    pub(super) fn socket(&self, path: &Path) -> Result<Socket, PlaceError> {
        let folder = rustix::fs::fstat(&self.folder).map_err(|source| PlaceError::Folder {
            path: path.to_owned(),
            source,
        })?;
        Ok(Socket {
            device: folder.st_dev,
            inode: folder.st_ino,
            name: self.name.clone(),
        })
    }

    /// The place as a path that leads by way of the held descriptor.
    pub(super) fn path(&self) -> PathBuf {
        Path::new("/proc/self/fd")
            .join(self.folder.as_raw_fd().to_string())
            .join(&self.name)
    }
}

/// Whether a path says where it leads without `.`, `..`, or doubled slashes.
fn is_plain(path: &Path) -> bool {
    let plain = |component: Component<'_>| matches!(component, Component::RootDir | Component::Normal(_));
    let rebuilt: PathBuf = path.components().collect();
    path.is_absolute() && path.components().all(plain) && rebuilt.as_os_str() == path.as_os_str()
}

/// The administrator's folder may be reached over links; what is beneath it may not.
fn enter(root: &Path, inner: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, root, flags, Mode::empty())?;
    if inner == Path::new("") {
        return Ok(root);
    }
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(&root, inner, flags, Mode::empty(), within)
}

#[cfg(test)]
mod tests {
    use super::{Place, PlaceError};
    use std::os::unix::net::UnixListener;
    use std::path::{Path, PathBuf};

    struct Host {
        folder: tempfile::TempDir,
        allowed: [PathBuf; 1],
    }

    impl Host {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let allowed = [folder.path().join("allowed")];
            std::fs::create_dir_all(allowed[0].join("vm")).unwrap();
            std::fs::create_dir(folder.path().join("elsewhere")).unwrap();
            Self { folder, allowed }
        }

        fn find(&self, path: impl AsRef<Path>) -> Result<Place, PlaceError> {
            Place::find(&self.folder.path().join(path), &self.allowed)
        }
    }

    #[test]
    fn a_socket_is_bound_in_the_folder_that_was_checked() {
        let host = Host::new();
        let place = host.find("allowed/vm/vsock").unwrap();
        let moved = host.folder.path().join("allowed/moved");
        std::fs::rename(host.folder.path().join("allowed/vm"), &moved).unwrap();
        std::os::unix::fs::symlink("../elsewhere", host.folder.path().join("allowed/vm")).unwrap();
        let _listener = UnixListener::bind(place.path()).unwrap();
        assert!(
            moved.join("vsock").exists(),
            "a folder that was put in its place gets nothing"
        );
        assert!(!host.folder.path().join("elsewhere/vsock").exists());
        host.find("allowed/vsock").unwrap();
    }

    #[test]
    fn two_ways_to_a_socket_are_one_socket() {
        let host = Host::new();
        let alias = host.folder.path().join("alias");
        std::os::unix::fs::symlink("allowed", &alias).unwrap();
        let allowed = [host.allowed[0].clone(), alias.clone()];
        let socket = |path: PathBuf| Place::find(&path, &allowed).unwrap().socket(&path).unwrap();
        let one = socket(host.allowed[0].join("vm/vsock"));
        assert_eq!(socket(alias.join("vm/vsock")), one);
        assert_ne!(socket(alias.join("vm/another")), one);
        assert_ne!(socket(alias.join("vsock")), one);
    }

    #[test]
    fn whatever_leads_out_is_refused() {
        let host = Host::new();
        let link = |target: &str, name: &str| {
            std::os::unix::fs::symlink(target, host.folder.path().join("allowed").join(name)).unwrap();
        };
        link("../elsewhere", "relative");
        link(host.folder.path().join("elsewhere").to_str().unwrap(), "absolute");
        link("vm", "inside");
        for path in ["elsewhere/vsock", "allowed", "allowedly/vsock", "/etc/vsock"] {
            let error = host.find(path).unwrap_err();
            assert!(matches!(error, PlaceError::Outside { .. }), "{path}: {error}");
        }
        for path in [
            "allowed/../elsewhere/vsock",
            "allowed/./vsock",
            "allowed//vsock",
            "allowed/vm/",
        ] {
            let error = host.find(path).unwrap_err();
            assert!(matches!(error, PlaceError::Form { .. }), "{path}: {error}");
        }
        let missing =
            ["relative", "absolute", "inside", "missing"].map(|name| format!("allowed/{name}/vsock"));
        for path in missing {
            let error = host.find(&path).unwrap_err();
            assert!(matches!(error, PlaceError::Folder { .. }), "{path}: {error}");
        }
        let long = format!("allowed/{}", "x".repeat(65));
        assert!(matches!(host.find(long), Err(PlaceError::Form { .. })));
        assert!(matches!(
            Place::find(Path::new("vsock"), &host.allowed),
            Err(PlaceError::Form { .. })
        ));
    }
}
