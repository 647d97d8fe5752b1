//! Files that are replaced in one step: whenever the machine fails, one is there as it was or as it is to be.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Replaces the file by what `write` writes; it is on disk when this returns. Only the daemon's user can read it. Blocks.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let beside = path.with_added_extension("new");
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&beside)?;
    // One that was left by a write that was cut off has the rights that it was made with.
    file.set_permissions(Permissions::from_mode(0o600))?;
    write(&mut file)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
