//! Files that outlast a reboot, for the agent's user alone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Puts a file with these bytes where only root gets to it, in one step: whoever reads it finds what was there or what is
/// there now. It blocks until that is on disk. The folder is made if it isn't there. A failure leaves nothing behind that
/// takes up room.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    if let Some(above) = folder.parent() {
        fs::create_dir_all(above)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let new = beside(path);
    remove(&new)?;
    let replaced = write(&new, bytes).and_then(|()| fs::rename(&new, path));
    if replaced.is_err() {
        // What can't be removed now is removed before the next attempt.
        let _ = remove(&new);
    }
    replaced?;
    File::open(folder)?.sync_all()
}

fn write(new: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(new)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Where [`replace`] writes a file before it takes the place of the one at `path`.
pub(crate) fn beside(path: &Path) -> PathBuf {
    path.with_added_extension("new")
}

/// Removes a file, if there is one.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
