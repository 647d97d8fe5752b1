//! Names in the store and spans of them.

use std::borrow::Borrow;
use std::fmt;

use bytes::Bytes;

/// A name in the store: 1 to [`Key::MAX`] bytes, ordered byte by byte.
///
/// The backends compare keys as unsigned bytes, shorter first where one begins the other, which is also
/// the order of this type.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

impl Key {
    /// The longest key, in bytes. It bounds what a guard or a listing can cost.
    pub const MAX: usize = 1024;

    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same key in memory of its own, so that keeping it doesn't keep the buffer it was cut from.
    pub(super) fn detached(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }

    /// The smallest bytes above this key; they can be longer than a key.
    pub(crate) fn successor(&self) -> Bytes {
        let mut next = Vec::with_capacity(self.0.len() + 1);
        next.extend_from_slice(&self.0);
        next.push(0);
        next.into()
    }
}

/// Bytes that can't be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A key has at least one byte.
    #[error("key: it is empty, and at least 1 byte is needed")]
    Empty,
    /// A key has at most [`Key::MAX`] bytes.
    #[error("key: it has {found} bytes, and at most {} fit", Key::MAX)]
    Long {
        /// The length found, in bytes.
        found: usize,
    },
}

impl TryFrom<Bytes> for Key {
    type Error = KeyError;

    fn try_from(bytes: Bytes) -> Result<Self, KeyError> {
        match bytes.len() {
            0 => Err(KeyError::Empty),
            1..=Self::MAX => Ok(Self(bytes)),
            found => Err(KeyError::Long { found }),
        }
    }
}

impl TryFrom<&[u8]> for Key {
    type Error = KeyError;

    fn try_from(bytes: &[u8]) -> Result<Self, KeyError> {
        Bytes::copy_from_slice(bytes).try_into()
    }
}

impl TryFrom<&str> for Key {
    type Error = KeyError;

    fn try_from(text: &str) -> Result<Self, KeyError> {
        text.as_bytes().try_into()
    }
}

impl TryFrom<String> for Key {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        Bytes::from(text).try_into()
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A span of keys and how many of them a page may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The first key of the span, inclusive. Empty means the first key of all.
    pub start: Bytes,
    /// Where the span ends.
    pub end: End,
    /// The most entries one page holds, clamped to 1..=[`Range::MAX_LIMIT`].
    pub limit: usize,
}

/// Where a [`Range`] ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Before this key.
    Before(Bytes),
    /// After the last key of all.
    Open,
}

impl Range {
    /// The most entries of one page.
    pub const MAX_LIMIT: usize = 1024;
    /// A page ends early once its keys and values have this many bytes, so that a page's memory is bounded.
    pub const MAX_BYTES: usize = 1 << 20;

    /// Every key.
    pub fn all() -> Self {
        Self {
            start: Bytes::new(),
            end: End::Open,
            limit: Self::MAX_LIMIT,
        }
    }

    /// Every key that begins with these bytes.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        let prefix = prefix.as_ref();
        Self {
            start: Bytes::copy_from_slice(prefix),
            end: End::after_prefix(prefix),
            limit: Self::MAX_LIMIT,
        }
    }

    /// The same span with another limit.
    #[must_use]
    pub fn limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// The rest of the span, from this key on.
    #[must_use]
    pub fn resume_at(self, start: Bytes) -> Self {
        Self { start, ..self }
    }

    /// The limit that holds for a page.
    pub(super) fn page_limit(&self) -> usize {
        self.limit.clamp(1, Self::MAX_LIMIT)
    }
}

impl End {
    /// The first key after all that begin with `prefix`.
    fn after_prefix(prefix: &[u8]) -> Self {
        let Some(last) = prefix.iter().rposition(|byte| *byte != u8::MAX) else {
            return Self::Open;
        };
        let mut end = prefix[..=last].to_vec();
        end[last] += 1;
        Self::Before(end.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_1_to_1024_bytes() {
        assert_eq!(Key::try_from(""), Err(KeyError::Empty));
        assert_eq!(
            Key::try_from("k".repeat(1025)),
            Err(KeyError::Long { found: 1025 })
        );
        assert!(Key::try_from("k".repeat(1024)).is_ok());
    }

    #[test]
    fn a_prefix_ends_before_its_next_sibling() {
        assert_eq!(Range::prefix("a/").end, End::Before(Bytes::from_static(b"a0")));
        assert_eq!(
            Range::prefix([b'a', 0xff]).end,
            End::Before(Bytes::from_static(b"b"))
        );
        assert_eq!(Range::prefix([0xff]).end, End::Open);
        assert_eq!(Range::prefix("").end, End::Open);
    }
}
