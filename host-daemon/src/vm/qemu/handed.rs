//! The guest's link key on its way to QEMU.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, fchown};
use std::path::PathBuf;

use moorline_shared::secret::SecretKey;

/// A file with a key; dropping this removes it. It isn't an argument of QEMU, which every process of the host may read.
#[derive(Debug)]
pub(super) struct HandedKey(PathBuf);

impl HandedKey {
    /// Writes a file that only `user` can read, or else the daemon's own user.
    ///
    /// Whatever had its name is removed. What the folder's owner might put there instead is not followed.
    pub(super) fn lay(path: PathBuf, key: &SecretKey, user: Option<u32>) -> io::Result<Self> {
        super::remove_if_there(&path)?;
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&path)?;
        let handed = Self(path);
        fchown(&file, user, user)?;
        file.write_all(key.expose())?;
        Ok(handed)
    }
}

impl Drop for HandedKey {
    fn drop(&mut self) {
        if let Err(error) = super::remove_if_there(&self.0) {
            tracing::error!(%error, path = %self.0.display(), "can't remove a link key that was handed to QEMU");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::HandedKey;
    use moorline_shared::secret::SecretKey;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_lies_there_for_its_reader_and_no_longer() {
        let folder = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (folder.path().join("key"), folder.path().join("elsewhere"));
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        let handed = HandedKey::lay(path.clone(), &SecretKey::from([7; 32]), None).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [7; 32]);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!elsewhere.exists());
        drop(handed);
        assert!(!path.exists());
    }
}
