//! The key that secret entries are sealed with where they are on disk.
//!
//! It is a credential of systemd, or else a file beside the cache that is made at the first start: 32 bytes in
//! hexadecimal. Whoever has the cache without it has no secret. It need not be backed up: without it the host only fetches
//! anew what it sealed.
//!
//! Each file has a key of its own, which HMAC makes of this one and of random bytes in the file, so that no entry's
//! number is ever used twice with one key.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use moorline_shared::{Digest, EntryPath};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;
use zeroize::Zeroizing;

use crate::durable;

const LABEL: &[u8] = b"moorline host cache v1";
/// The name of its file, and of systemd's credential.
const FILE: &str = "cache.key";

/// What makes the key of a file; no secret.
pub(super) type Salt = [u8; 32];

/// The key. Nothing prints it.
pub(super) struct CacheKey(hmac::Key);

/// The key of one file.
pub(super) struct FileKey(LessSafeKey);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    /// The file system refused.
    #[error("the cache's key {} can't be {what}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file or credential holds something else.
    #[error(
        "the cache's key {} must be 64 lowercase hexadecimal digits: remove it, and the host makes another one and fetches \
         anew what it can't open",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheKey(hidden)")
    }
}

impl CacheKey {
    /// The key with these bytes.
    pub(super) fn new(bytes: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The key that systemd hands over in `credentials`, otherwise that of the file in `state`, which is made if there is
    /// none. Blocks.
    pub(super) fn open(state: &Path, credentials: Option<&Path>) -> Result<Self, KeyError> {
        let is_there = |path: &Path| path.try_exists().map_err(failed("looked for", path));
        if let Some(handed) = credentials.map(|folder| folder.join(FILE))
            && is_there(&handed)?
        {
            return read(&handed);
        }
        let path = state.join(FILE);
        if is_there(&path)? {
            read(&path)
        } else {
            make(&path)
        }
    }

    /// The key of the file with this salt.
    pub(super) fn of_file(&self, salt: &Salt) -> FileKey {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(LABEL);
        context.update(salt);
        let key = UnboundKey::new(&AES_256_GCM, context.sign().as_ref());
        FileKey(LessSafeKey::new(key.expect("HMAC with SHA-256 gives 32 bytes")))
    }
}

impl FileKey {
    /// Seals the value of the entry at this path, which is the file's `place`-th. Each place is sealed once.
    pub(super) fn seal(&self, place: u32, path: &EntryPath, value: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(value.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(value);
        let bound = Aad::from(path.as_str().as_bytes());
        self.0
            .seal_in_place_append_tag(nonce(place), bound, &mut sealed)
            .expect("values are far shorter than what AES-GCM takes");
        sealed
    }

    /// The value; `None` if another key sealed it, or another path's or place's is in its place.
    pub(super) fn open(&self, place: u32, path: &EntryPath, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut value = Zeroizing::new(sealed.to_vec());
        let bound = Aad::from(path.as_str().as_bytes());
        let opened = self.0.open_in_place(nonce(place), bound, &mut value);
        let length = opened.ok()?.len();
        value.truncate(length);
        Some(value)
    }
}

fn nonce(place: u32) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&place.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> KeyError {
    let path = path.to_owned();
    move |source| KeyError::Io {
        what,
        path: path.clone(),
        source,
    }
}

fn read(path: &Path) -> Result<CacheKey, KeyError> {
    let text = Zeroizing::new(fs::read(path).map_err(failed("read", path))?);
    let digits = std::str::from_utf8(&text).ok().map(str::trim);
    let key = digits.and_then(|digits| digits.parse::<Digest>().ok());
    let path = path.to_owned();
    key.map(|key| CacheKey::new(key.bytes()))
        .ok_or(KeyError::Malformed { path })
}

fn make(path: &Path) -> Result<CacheKey, KeyError> {
    let mut random = Zeroizing::new([0; 32]);
    let filled = getrandom::fill(&mut random[..]).map_err(io::Error::other);
    filled.map_err(failed("made", path))?;
    let text = Zeroizing::new(format!("{}\n", Digest::from(*random)));
    durable::replace(path, |file| file.write_all(text.as_bytes())).map_err(failed("made", path))?;
    Ok(CacheKey::new(&random))
}

#[cfg(test)]
mod tests {
    use super::{CacheKey, KeyError};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_key_is_made_once_and_a_credential_of_systemd_goes_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = "db/password".parse().unwrap();
        let seal = |key: &CacheKey| key.of_file(&[1; 32]).seal(0, &path, b"hunter2");
        let made = seal(&CacheKey::open(folder.path(), None).unwrap());
        assert_eq!(made, seal(&CacheKey::open(folder.path(), None).unwrap()));
        let rights = folder.path().join("cache.key").metadata().unwrap().permissions();
        assert_eq!(rights.mode() & 0o777, 0o600);
        let handed = tempfile::tempdir().unwrap();
        std::fs::write(handed.path().join("cache.key"), "0f".repeat(32)).unwrap();
        let key = CacheKey::open(folder.path(), Some(handed.path())).unwrap();
        assert_eq!(seal(&key), seal(&CacheKey::new(&[0x0f; 32])));
        assert_ne!(seal(&key), made);
    }

    #[test]
    fn what_is_no_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("cache.key"), b"hunter2\xff").unwrap();
        let error = CacheKey::open(folder.path(), None).unwrap_err();
        assert!(matches!(error, KeyError::Malformed { .. }));
        let said = error.to_string();
        assert!(said.contains("cache.key") && !said.contains("hunter2"), "{said}");
    }

    #[test]
    fn a_secret_opens_at_its_place_alone() {
        let (key, other) = (CacheKey::new(&[1; 32]), CacheKey::new(&[2; 32]));
        let [here, there] = ["here", "there"].map(|path| path.parse().unwrap());
        let sealed = key.of_file(&[7; 32]).seal(3, &here, b"hunter2");
        let open = |key: &CacheKey, salt, place, path| {
            let opened = key.of_file(&[salt; 32]).open(place, path, &sealed);
            opened.map(|value| value.to_vec())
        };
        assert_eq!(open(&key, 7, 3, &here).as_deref(), Some(&b"hunter2"[..]));
        assert_eq!(open(&key, 7, 2, &here), None);
        assert_eq!(open(&key, 7, 3, &there), None);
        assert_eq!(open(&key, 8, 3, &here), None);
        assert_eq!(open(&other, 7, 3, &here), None);
    }
}
