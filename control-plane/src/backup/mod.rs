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

/// What `SQLite` has beside a file while it changes that.
const COMPANIONS: [&str; 3] = ["-journal", "-wal", "-shm"];

/// A file that is removed again unless it was made what it is to be.
#[derive(Debug)]
struct Unfinished(PathBuf);

impl Unfinished {
    /// Makes the file, empty and its owner's alone, and never what a link in its place leads to. What an earlier attempt
    /// left is removed first, and with it what `SQLite` had beside that: it would be taken for the new file's, and bring
    /// back what the old one had.
    fn make(path: PathBuf) -> io::Result<(Self, File)> {
        remove(&path)?;
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
        // One that was finished isn't there any more, and the next attempt removes what stays.
        let _ = remove(&self.0);
    }
}

/// Removes a file and what `SQLite` has beside it, as far as it is there.
fn remove(file: &Path) -> io::Result<()> {
    let companions = COMPANIONS.iter().map(|suffix| beside(file, suffix));
    for path in companions.chain([file.to_owned()]) {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
