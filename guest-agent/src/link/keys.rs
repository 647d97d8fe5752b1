//! The link key: what this guest's root proves itself by where its host can't see the port that it dials from.
//!
//! A VMM that can passes it in ([`FW_CFG`]), where only root can read it. Otherwise the host gives it over the link, once
//! in a life of the machine; a reboot is the same life, so it is kept on disk. A disk may be copied to another machine,
//! and a machine be restored from a snapshot: then the host doesn't believe the key. It is asked without one next, and
//! gives the key of the present life if nobody has that.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use moorline_shared::link::proof::{FW_CFG_NAME, proof};
use moorline_shared::secret::SecretKey;
use zeroize::Zeroizing;

use crate::files;

/// Where Linux shows what QEMU passes in.
const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name";
/// The key's name in the folder of what the agent keeps.
const FILE: &str = "link-key";

/// The link key of this guest, wherever it comes from. It belongs to one thread.
#[derive(Debug, Default)]
pub struct LinkKeys {
    passed_in: Option<PathBuf>,
    kept: Option<PathBuf>,
    /// What the host gave, in case it can't be kept.
    given: RefCell<Option<SecretKey>>,
    next: Cell<Next>,
}

/// What the next HELLO has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Next {
    /// A proof, if there is a key.
    #[default]
    Proof,
    /// None: the host didn't believe the last one.
    Nothing,
}

impl LinkKeys {
    /// Those of this machine, kept in the agent's own folder.
    pub fn of_this_machine(folder: &Path) -> Self {
        Self {
            passed_in: Some(Path::new(FW_CFG).join(FW_CFG_NAME).join("raw")),
            kept: Some(folder.join(FILE)),
            ..Self::default()
        }
    }

    /// What HELLO has in answer to a challenge with this nonce.
    pub(super) fn proof(&self, nonce: &[u8; 16]) -> Option<[u8; 32]> {
        match self.next.get() {
            Next::Proof => self.key().map(|key| proof(&key, nonce)),
            Next::Nothing => None,
        }
    }

    /// Looked for anew each time: a machine that was restored has another one passed in.
    fn key(&self) -> Option<SecretKey> {
        let passed_in = self.passed_in.as_deref().and_then(read);
        let given = || self.given.borrow().clone();
        passed_in.or_else(given).or_else(|| read(self.kept.as_deref()?))
    }

    /// The host didn't believe the last HELLO, which is tried the other way next.
    pub(super) fn denied(&self) {
        self.next.set(match self.next.get() {
            Next::Proof => Next::Nothing,
            Next::Nothing => Next::Proof,
        });
    }

    /// The host believed the last HELLO.
    pub(super) fn believed(&self) {
        self.next.set(Next::Proof);
    }

    /// The host gave this. It blocks until that is on disk, once in a life of the machine.
    pub(super) fn take(&self, key: SecretKey) {
        if let Some(path) = &self.kept
            && let Err(error) = files::replace(path, key.expose())
        {
            tracing::warn!(
                %error, path = %path.display(),
                "the link key can't be kept: after a reboot the host doesn't know this guest until its VM is attached anew \
                 (moorline host attach --instance)"
            );
        }
        self.given.replace(Some(key));
        self.next.set(Next::Proof);
    }
}

/// A key's 32 bytes. Anything else is no key, and without one the host says what is wrong.
fn read(path: &Path) -> Option<SecretKey> {
    let mut bytes = Zeroizing::new([0; 33]);
    let mut file = File::open(path).ok()?;
    let mut length = 0;
    while length < bytes.len() {
        match file.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    let key = <[u8; 32]>::try_from(&bytes[..length]).ok()?;
    Some(SecretKey::from(key))
}

#[cfg(test)]
mod tests {
    use super::{LinkKeys, proof};
    use moorline_shared::secret::SecretKey;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    const NONCE: [u8; 16] = [5; 16];

    fn key(n: u8) -> SecretKey {
        SecretKey::from([n; 32])
    }

    fn made(n: u8) -> [u8; 32] {
        proof(&key(n), &NONCE)
    }

    fn keys(folder: &Path) -> LinkKeys {
        LinkKeys {
            passed_in: Some(folder.join("raw")),
            kept: Some(folder.join("agent/link-key")),
            ..LinkKeys::default()
        }
    }

    #[test]
    fn what_the_host_gave_is_there_after_a_reboot_and_only_for_root() {
        let folder = tempfile::tempdir().unwrap();
        let first = keys(folder.path());
        assert_eq!(first.proof(&NONCE), None);
        first.take(key(1));
        assert_eq!(first.proof(&NONCE), Some(made(1)));
        assert_eq!(keys(folder.path()).proof(&NONCE), Some(made(1)));
        let mode = |path: &str| folder.path().join(path).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("agent"), mode("agent/link-key")), (0o700, 0o600));
        first.take(key(2));
        assert_eq!(keys(folder.path()).proof(&NONCE), Some(made(2)));
    }

    #[test]
    fn a_key_that_is_not_believed_is_left_out_every_other_time() {
        let folder = tempfile::tempdir().unwrap();
        let keys = keys(folder.path());
        keys.take(key(1));
        keys.denied();
        assert_eq!(keys.proof(&NONCE), None);
        keys.denied();
        assert_eq!(keys.proof(&NONCE), Some(made(1)));
        keys.denied();
        keys.believed();
        assert_eq!(keys.proof(&NONCE), Some(made(1)));
        keys.denied();
        keys.take(key(2));
        assert_eq!(keys.proof(&NONCE), Some(made(2)));
    }

    #[test]
    fn what_the_vmm_passes_in_goes_first_and_is_read_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let (keys, passed_in) = (keys(folder.path()), folder.path().join("raw"));
        keys.take(key(1));
        for n in [2, 3] {
            std::fs::write(&passed_in, [n; 32]).unwrap();
            assert_eq!(keys.proof(&NONCE), Some(made(n)));
        }
        for length in [0, 31, 33] {
            std::fs::write(&passed_in, vec![4; length]).unwrap();
            assert_eq!(keys.proof(&NONCE), Some(made(1)), "{length} bytes are no key");
        }
    }

    #[test]
    fn without_a_disk_it_is_known_until_the_end() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("agent"), "no folder").unwrap();
        let keys = keys(folder.path());
        keys.take(key(1));
        assert_eq!(keys.proof(&NONCE), Some(made(1)));
    }
}
