//! The store in one file: taken while the control plane runs or stands still, and restored after a disaster.
//!
//! A backup is two lines and the store's file: `moorline-backup 1`, a [`Header`] as JSON, and a copy of the store as it
//! was at one revision. It holds nothing that the store doesn't: whatever is secret in it is sealed, and the master key
//! is kept apart. [`take()`] writes one, [`restore()`] makes a state folder of one.
//!
//! Restoring begins a new epoch. What was committed after the backup is lost, and its revisions will be given out again
//! for other changes; no cursor, `ETag` or guard of the lost ones fits in the new epoch, so that hosts get everything
//! anew and clients read again.

mod header;
mod restore;
mod take;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

pub use header::{Header, HeaderError};
pub use restore::{KeyCheck, RestoreError, Restored, Terms, restore};
pub use take::{TakeError, take};

/// The name of the store's file in the folder of the state.
pub const STORE_FILE: &str = "store.db";

/// How much is copied at once, in bytes.
const CHUNK: usize = 128 << 10;

/// A file that is removed again unless it was made what it is to be.
#[derive(Debug)]
struct Unfinished(PathBuf);

impl Unfinished {
    /// Makes the file, empty and its owner's alone; one that an earlier attempt left is replaced. A link that was left
    /// there is, too, and what it leads to is not touched: root may do this in another user's folder.
    fn make(path: PathBuf) -> io::Result<(Self, File)> {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => (),
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&path)?;
        Ok((Self(path), file))
    }

    fn path(&self) -> &Path {
        &self.0
    }

    /// Gives the file, whose content is on disk already, its name for good.
    fn finish(self, name: &Path) -> io::Result<()> {
        std::fs::rename(&self.0, name)?;
        let folder = name.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // One that was finished isn't there any more.
        let _ = std::fs::remove_file(&self.0);
    }
}
