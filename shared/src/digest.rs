//! SHA-256 digests: of values, of batches on the guest link, of what a reader sees of an instance.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::revision::Revision;

/// A SHA-256 digest; 64 lowercase hexadecimal digits as text, 32 bytes on the guest link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of several pieces, each preceded by its length so that their borders count.
    pub fn of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// The 32 bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// An entry as it counts in the digest of what a reader sees: that it is valid for a while only, doesn't. On the guest
/// link it is known by this encoding, which never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Row<'a> {
    /// Its name.
    pub path: &'a str,
    /// When it last changed.
    pub revision: Revision,
    /// What the bytes are.
    pub content_type: &'a str,
    /// Whether it is secret.
    pub secret: bool,
    /// The digest of the bytes.
    pub value: Digest,
}

/// Makes the digest of what a reader sees of an instance, by which two who should see the same can tell whether they do.
#[derive(Clone, Default)]
pub struct ViewDigest(Sha256);

impl ViewDigest {
    /// Takes in the next entry. They come in byte order of their paths.
    pub fn add(&mut self, row: &Row<'_>) {
        // Postcard fails only for types that it can't express, and a row is none.
        self.0.update(postcard::to_stdvec(row).unwrap_or_default());
    }

    /// The digest of all entries together.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }

    /// The same of all rows at once.
    pub fn of<'a>(rows: impl IntoIterator<Item = Row<'a>>) -> Digest {
        let mut digest = Self::default();
        rows.into_iter().for_each(|row| digest.add(&row));
        digest.finish()
    }
}

impl fmt::Debug for ViewDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ViewDigest")
    }
}

impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 lowercase hexadecimal digits")]
pub struct DigestError;

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex_into(text, &mut bytes).ok_or(DigestError)?;
        Ok(Self(bytes))
    }
}

/// Reads lowercase hexadecimal digits that fill `out` exactly.
pub(crate) fn hex_into(text: &str, out: &mut [u8]) -> Option<()> {
    let digits = text.as_bytes();
    if digits.len() != out.len() * 2 {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(())
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            s.collect_str(self)
        } else {
            self.0.serialize(s)
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            let text = std::borrow::Cow::<str>::deserialize(d)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            Deserialize::deserialize(d).map(Self)
        }
    }
}
