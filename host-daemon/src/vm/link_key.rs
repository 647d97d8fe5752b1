//! The link key of a life of a VM, on disk from the moment at which it may be out, so that it holds through a restart of
//! the daemon.
//!
//! Who may read the file may speak as the guest's root; only the daemon's user can. It lasts as long as the life does.

use std::path::{Path, PathBuf};

use moorline_shared::InstanceId;
use moorline_shared::secret::SecretKey;
use serde::{Deserialize, Serialize};

use super::file::{self, Document, FileError, Head};

/// The version of the file's form that this daemon writes.
const VERSION: u32 = 1;

/// A key that a guest has, or may have.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GivenKey {
    version: u32,
    instance: InstanceId,
    incarnation: u64,
    key: SecretKey,
}

impl Document for GivenKey {
    fn head(&self) -> Head {
        let Self {
            version, instance, ..
        } = *self;
        Head { version, instance }
    }
}

/// A key that nobody has. Fails without the kernel's random bytes.
pub(super) fn fresh() -> std::io::Result<SecretKey> {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes)?;
    Ok(SecretKey::from(*bytes))
}

/// Keeps a key that is about to be given to the guest; it is on disk when this returns. Cancelled, it is done all the
/// same.
pub(super) async fn keep(
    path: PathBuf,
    instance: InstanceId,
    incarnation: u64,
    key: SecretKey,
) -> Result<(), FileError> {
    let given = GivenKey {
        version: VERSION,
        instance,
        incarnation,
        key,
    };
    file::keep(path, given).await
}

/// Fails with [`FileError::Newer`] if the file is of a newer form.
pub(super) fn know(path: &Path) -> Result<(), FileError> {
    file::know(path, VERSION)
}

/// The key that the guest has in this life; `None` if it was given none. One of another life is none. A file that is
/// damaged is removed and is an error once.
pub(super) fn load(
    path: &Path,
    instance: InstanceId,
    incarnation: u64,
) -> Result<Option<SecretKey>, FileError> {
    let version = VERSION;
    let given = file::load_secret::<GivenKey>(path, Head { version, instance })?;
    Ok(given
        .filter(|given| given.incarnation == incarnation)
        .map(|given| given.key))
}

#[cfg(test)]
mod tests {
    use super::{fresh, keep, load};
    use moorline_shared::InstanceId;
    use std::os::unix::fs::PermissionsExt as _;

    #[tokio::test]
    async fn a_key_is_its_lifes_and_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let (instance, other) = (InstanceId::from_bytes([7; 16]), InstanceId::from_bytes([8; 16]));
        assert_eq!(load(&path, instance, 3).unwrap(), None);
        let key = fresh().unwrap();
        assert_ne!(key, fresh().unwrap());
        keep(path.clone(), instance, 3, key.clone()).await.unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load(&path, instance, 3).unwrap(), Some(key));
        assert_eq!(load(&path, instance, 4).unwrap(), None);
        load(&path, other, 3).unwrap_err();
        assert!(!path.exists(), "a key that is of no use is not kept");
    }
}
