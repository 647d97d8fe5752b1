//! The master key: what every secret that the control plane keeps is sealed with.
//!
//! It is a file of 32 random bytes in hexadecimal, made at the first start, or a credential of systemd; whoever has the
//! store without it has no secret. Each secret is sealed for a *purpose*, and *bound* to what it belongs to, so that
//! one that is moved elsewhere in the store opens nowhere.
//!
//! Sealed: `version(1) | key(4) | nonce(24) | ciphertext | tag(16)`, AES-256-GCM under a key that HMAC makes of the
//! purpose's key and the nonce. The nonce is an HMAC over what is sealed and the caller's salt, so that one salt gives
//! the same bytes for the same secret, which an operation that is tried again needs, and never one nonce for two.

use std::fmt;
use std::path::{Path, PathBuf};

use moorline_shared::Digest;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::{hkdf, hmac};
use zeroize::Zeroizing;

use super::secret_file::{self, SecretFileError};

const VERSION: u8 = 1;
const KEY_ID: usize = 4;
const NONCE: usize = 24;
const TAG: usize = 16;
const HEAD: usize = 1 + KEY_ID + NONCE;
const LABEL: &[u8] = b"moorline master key v1";

/// How many bytes a sealed secret has more than the secret.
pub const SEALED_BYTES_MORE: usize = HEAD + TAG;

/// What a secret is kept for. A secret that was sealed for one purpose opens for no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// The value of an entry.
    Entry = 1,
    /// A root key of the ring that tokens are sealed with.
    TokenKey = 2,
    /// The key of the certificate authority.
    Authority = 3,
    /// The key that identity tokens are signed with.
    IdentityKey = 4,
    /// The hash of a user's password.
    Password = 5,
}

impl Purpose {
    const ALL: [Self; 5] = [
        Self::Entry,
        Self::TokenKey,
        Self::Authority,
        Self::IdentityKey,
        Self::Password,
    ];
}

/// The master key. Its bytes are wiped when it is dropped, and can't be printed.
pub struct MasterKey {
    id: [u8; KEY_ID],
    purposes: [hmac::Key; Purpose::ALL.len()],
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(hidden)")
    }
}

/// Why the master key can't be had.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// Its file can't be used.
    #[error("the master key can't be had")]
    File(#[from] SecretFileError),
    /// The file holds something else.
    #[error("master key {}: it must hold 64 lowercase hexadecimal digits; put the right file back", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// Why a sealed secret doesn't open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// It is not of the form that sealing gives.
    #[error("a secret in the store is damaged, or a newer release sealed it")]
    Form,
    /// Another key sealed it.
    #[error("a secret in the store was sealed with another master key; put the right master.key back")]
    Key,
    /// It was changed, or moved here from elsewhere.
    #[error("a secret in the store was changed since it was sealed, or does not belong where it is")]
    Forged,
}

impl MasterKey {
    /// The key with these bytes, which must come from the kernel's random source.
    pub fn new(bytes: &Zeroizing<[u8; 32]>) -> Self {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, LABEL).extract(&bytes[..]);
        let derive = |what: u8| {
            let info = [LABEL, &[what]];
            let derived = root.expand(&info, hmac::HMAC_SHA256);
            hmac::Key::from(derived.expect("32 bytes are within what HKDF gives"))
        };
        let mut id = [0; KEY_ID];
        id.copy_from_slice(&hmac::sign(&derive(0), b"id").as_ref()[..KEY_ID]);
        Self {
            id,
            purposes: Purpose::ALL.map(|purpose| derive(purpose as u8)),
        }
    }

    /// Takes the key from the file at `path`, or makes one there, readable by its owner only. Blocks.
    pub fn open(path: &Path) -> Result<Self, MasterKeyError> {
        let text = secret_file::read_or_make(path, |random| Digest::from(*random).to_string())?;
        let digits: Digest = text.trim().parse().map_err(|_| MasterKeyError::Malformed {
            path: path.to_owned(),
        })?;
        Ok(Self::new(&Zeroizing::new(*digits.bytes())))
    }

    /// A key that everybody knows.
    #[cfg(test)]
    pub fn for_tests() -> std::sync::Arc<Self> {
        Self::new(&Zeroizing::new([7; 32])).into()
    }

    /// What the key is told from others by, which says nothing of it: 8 hexadecimal digits.
    pub fn name(&self) -> String {
        name(self.id)
    }

    /// The [name](Self::name) of the key that something was sealed with; `None` if it is not of a form that sealing gives.
    pub fn sealed_with(sealed: &[u8]) -> Option<String> {
        let id = sealed.strip_prefix(&[VERSION])?.first_chunk()?;
        Some(name(*id))
    }

    /// Seals a secret for `purpose`, bound to what it belongs to.
    ///
    /// `salt` need not be kept: another salt gives other bytes for the same secret, the same one the same bytes.
    pub fn seal(&self, purpose: Purpose, bound_to: &[u8], salt: &[u8], secret: &[u8]) -> Vec<u8> {
        let key = self.of(purpose);
        let mut sealed = Vec::with_capacity(secret.len() + SEALED_BYTES_MORE);
        sealed.push(VERSION);
        sealed.extend_from_slice(&self.id);
        sealed.extend_from_slice(&nonce(key, &[bound_to, salt, secret]));
        sealed.extend_from_slice(secret);
        let (head, body) = sealed.split_at_mut(HEAD);
        let tag = cipher(key, head)
            .seal_in_place_separate_tag(zero(), Aad::from([head, bound_to].concat()), body)
            .expect("secrets are far shorter than what AES-GCM takes");
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// Opens what [`Self::seal`] gave for the same purpose and bound to the same.
    pub fn unseal(
        &self,
        purpose: Purpose,
        bound_to: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, UnsealError> {
        if sealed.len() < SEALED_BYTES_MORE || sealed[0] != VERSION {
            return Err(UnsealError::Form);
        }
        if sealed[1..=KEY_ID] != self.id {
            return Err(UnsealError::Key);
        }
        let (head, body) = sealed.split_at(HEAD);
        let mut secret = Zeroizing::new(body.to_vec());
        let opened = cipher(self.of(purpose), head).open_in_place(
            zero(),
            Aad::from([head, bound_to].concat()),
            &mut secret,
        );
        let length = opened.map_err(|_| UnsealError::Forged)?.len();
        secret.truncate(length);
        Ok(secret)
    }

    fn of(&self, purpose: Purpose) -> &hmac::Key {
        &self.purposes[usize::from(purpose as u8) - 1]
    }
}

fn name(id: [u8; KEY_ID]) -> String {
    format!("{:08x}", u32::from_be_bytes(id))
}

/// Each part with its length, so that no two lists of parts give one nonce.
fn nonce(key: &hmac::Key, parts: &[&[u8]]) -> [u8; NONCE] {
    let mut context = hmac::Context::with_key(key);
    context.update(b"nonce");
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut nonce = [0; NONCE];
    nonce.copy_from_slice(&context.sign().as_ref()[..NONCE]);
    nonce
}

/// The cipher of one sealed secret: its key is used once, so the cipher's own nonce is zero.
fn cipher(key: &hmac::Key, head: &[u8]) -> LessSafeKey {
    let mut context = hmac::Context::with_key(key);
    context.update(b"cipher");
    context.update(head);
    let key = UnboundKey::new(&AES_256_GCM, context.sign().as_ref());
    LessSafeKey::new(key.expect("HMAC with SHA-256 gives 32 bytes"))
}

fn zero() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> MasterKey {
        MasterKey::new(&Zeroizing::new([byte; 32]))
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_where_it_belongs_and_nowhere_else(secret: Vec<u8>, salt: Vec<u8>, at: prop::sample::Index) {
            let master = key(1);
            let sealed = master.seal(Purpose::Entry, b"here", &salt, &secret);
            prop_assert_eq!(sealed.len(), secret.len() + SEALED_BYTES_MORE);
            prop_assert_eq!(&master.unseal(Purpose::Entry, b"here", &sealed).unwrap()[..], &secret[..]);
            prop_assert_eq!(&master.seal(Purpose::Entry, b"here", &salt, &secret), &sealed);
            prop_assert_eq!(master.unseal(Purpose::Entry, b"there", &sealed), Err(UnsealError::Forged));
            prop_assert_eq!(master.unseal(Purpose::TokenKey, b"here", &sealed), Err(UnsealError::Forged));
            prop_assert_eq!(key(2).unseal(Purpose::Entry, b"here", &sealed), Err(UnsealError::Key));
            let mut changed = sealed.clone();
            changed[at.index(sealed.len())] ^= 1;
            prop_assert!(master.unseal(Purpose::Entry, b"here", &changed).is_err());
            prop_assert!(master.unseal(Purpose::Entry, b"here", &sealed[..at.index(sealed.len())]).is_err());
        }
    }

    #[test]
    fn another_salt_hides_that_a_secret_is_the_same() {
        let master = key(1);
        let [a, b] = [b"1", b"2"].map(|salt| master.seal(Purpose::Entry, b"here", salt, b"hunter2"));
        assert_ne!(a[HEAD..], b[HEAD..]);
        assert_eq!(MasterKey::sealed_with(&a), Some(master.name()));
        assert_ne!(master.name(), key(2).name());
        assert_eq!(MasterKey::sealed_with(b"\x01abc"), None);
        assert!(!format!("{master:?}").contains('1'));
    }

    #[test]
    fn the_file_keeps_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let sealed = MasterKey::open(&path)
            .unwrap()
            .seal(Purpose::Entry, b"", b"", b"x");
        let again = MasterKey::open(&path).unwrap();
        assert!(again.unseal(Purpose::Entry, b"", &sealed).is_ok());
        std::fs::write(&path, "short").unwrap();
        let malformed = MasterKey::open(&path);
        assert!(matches!(malformed, Err(MasterKeyError::Malformed { .. })));
    }
}
