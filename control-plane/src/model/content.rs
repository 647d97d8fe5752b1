//! Values that live once: short ones where they are used, long and secret ones under their digest.

use moorline_shared::entry::Value;
use moorline_shared::{Digest, EntryPath, InstanceId};
use serde::{Deserialize, Serialize};

use super::record::{Record, key};
use crate::identity::master::SEALED_BYTES_MORE;
use crate::store::Key;

/// A value, or the name of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// The value of a secret entry, which the rules never see: only its name is written where it is used, and the sealed
    /// bytes live in a [`LongValue`], however few they are.
    Sealed(Sealed),
    /// The name of a value over [`Content::INLINE_BYTES`], which lives in a [`LongValue`].
    Named {
        /// SHA-256 of it.
        digest: Digest,
        /// How many bytes it has.
        length: u64,
        /// What the bytes are by their looks, which must be known when they themselves are gone.
        #[serde(default, skip_serializing_if = "Looks::is_text")]
        looks: Looks,
    },
    /// The value itself.
    Inline(Value),
}

/// A value that [`super::sealing`] has sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// SHA-256 of the sealed bytes, by which nobody can try out what the value may be.
    #[serde(rename = "sealed")]
    pub digest: Digest,
    /// How many bytes the value has.
    pub length: u64,
    /// What the value is by its looks.
    #[serde(default, skip_serializing_if = "Looks::is_text")]
    pub looks: Looks,
    /// The sealed bytes, where they are at hand.
    #[serde(skip)]
    pub bytes: Option<Value>,
}

impl Content {
    /// The longest value that records hold themselves, in bytes.
    pub const INLINE_BYTES: usize = 1024;

    /// How many bytes the value has.
    pub fn len(&self) -> u64 {
        match self {
            Self::Inline(value) => value.len() as u64,
            Self::Named { length, .. } | Self::Sealed(Sealed { length, .. }) => *length,
        }
    }

    /// How many bytes are kept for it: sealed ones are more.
    pub fn kept_len(&self) -> u64 {
        match self {
            Self::Sealed(sealed) => sealed.length + SEALED_BYTES_MORE as u64,
            plain => plain.len(),
        }
    }

    /// Whether it is a secret entry's.
    pub const fn secrecy(&self) -> Secrecy {
        match self {
            Self::Sealed(_) => Secrecy::Secret,
            Self::Named { .. } | Self::Inline(_) => Secrecy::Open,
        }
    }

    /// What the value is by its looks.
    pub fn looks(&self) -> Looks {
        match self {
            Self::Inline(value) => Looks::of(value),
            Self::Named { looks, .. } | Self::Sealed(Sealed { looks, .. }) => *looks,
        }
    }

    /// The bytes that are kept for it, where they are at hand.
    pub const fn at_hand(&self) -> Option<&Value> {
        match self {
            Self::Inline(value) => Some(value),
            Self::Named { .. } => None,
            Self::Sealed(sealed) => sealed.bytes.as_ref(),
        }
    }

    /// The same with its bytes, which were found under its name.
    #[must_use]
    pub fn with(self, bytes: Value) -> Self {
        match self {
            Self::Sealed(sealed) => Self::Sealed(Sealed {
                bytes: Some(bytes),
                ..sealed
            }),
            Self::Named { .. } | Self::Inline(_) => Self::Inline(bytes),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of the value, if it has one.
    pub const fn digest(&self) -> Option<Digest> {
        match self {
            Self::Inline(_) => None,
            Self::Named { digest, .. } | Self::Sealed(Sealed { digest, .. }) => Some(*digest),
        }
    }

    /// The value as records hold it: a long one and a secret one by its name.
    #[must_use]
    pub fn named(&self) -> Self {
        match self {
            Self::Inline(value) if value.len() > Self::INLINE_BYTES => Self::Named {
                digest: Digest::of(value.bytes()),
                length: value.len() as u64,
                looks: Looks::of(value),
            },
            Self::Sealed(sealed) => Self::Sealed(Sealed {
                bytes: None,
                ..sealed.clone()
            }),
            short => short.clone(),
        }
    }
}

/// Whether an entry is secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Secrecy {
    /// It is: its values are sealed wherever they are kept.
    Secret,
    /// It isn't.
    Open,
}

impl From<bool> for Secrecy {
    fn from(secret: bool) -> Self {
        if secret { Self::Secret } else { Self::Open }
    }
}

/// What bytes are by their looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Looks {
    /// They are UTF-8.
    #[default]
    Text,
    /// They are not.
    Bytes,
}

impl Looks {
    /// What these look like.
    pub fn of(value: &Value) -> Self {
        if std::str::from_utf8(value.bytes()).is_ok() {
            Self::Text
        } else {
            Self::Bytes
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
    fn is_text(&self) -> bool {
        *self == Self::Text
    }
}

impl From<Value> for Content {
    fn from(value: Value) -> Self {
        Self::Inline(value)
    }
}

/// A value over [`Content::INLINE_BYTES`] of an entry, or a sealed one, present or past. It goes when the last row of
/// the entry's history that names it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LongValue {
    /// Whose entry.
    pub instance: InstanceId,
    /// Which entry.
    pub path: EntryPath,
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// The value's bytes; sealed if the value is secret.
    pub value: Value,
}

impl Record for LongValue {
    const KIND: &'static str = "value";
    const FENCED: bool = false;
    const SCOPE_SEGMENTS: usize = 1;
    type Id = (InstanceId, EntryPath, Digest);
    type Collection = InstanceId;

    fn key((instance, path, digest): &Self::Id) -> Key {
        key(format!("value/{instance}/{path}//{digest}").as_bytes())
    }

    fn own_key(&self) -> Key {
        Self::key(&(self.instance, self.path.clone(), self.digest))
    }

    fn prefix(of: &InstanceId) -> String {
        format!("value/{of}/")
    }
}
