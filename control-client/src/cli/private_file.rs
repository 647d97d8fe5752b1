//! Files of the user's own: replaced in one step, and readable by nobody else.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Makes the folder that the file is to be in, if it isn't there.
pub(super) fn make_folder_of(path: &Path) -> io::Result<()> {
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => DirBuilder::new().recursive(true).mode(0o700).create(folder),
        None => Ok(()),
    }
}

/// Replaces the file by one that holds `bytes`; it is on disk when this returns. Its folder is made if it isn't there.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    make_folder_of(path)?;
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    // One that is there is left of a command that did not come to its end.
    let _ = fs::remove_file(&fresh);
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&fresh)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    let replaced = written.and_then(|()| fs::rename(&fresh, path));
    if replaced.is_err() {
        // What matters is why it failed; a file that is left over is in nobody's way.
        let _ = fs::remove_file(&fresh);
    }
    replaced
}
