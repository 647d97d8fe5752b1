//! Names of entries: an allow-list, compared byte for byte, refused and never normalised.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The name of an entry within its instance: 1 to 16 segments with `/` between them, 512 bytes at most.
///
/// A segment is 1 to 128 of `A-Z a-z 0-9 _ . : @ + = -`; it doesn't begin with `-` and is neither `.` nor `..`. There
/// is no leading or trailing slash. What isn't of this form is refused, so two names are equal only byte for byte.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryPath(Arc<str>);

impl EntryPath {
    /// The longest path, in bytes.
    pub const MAX_BYTES: usize = 512;
    /// The most segments.
    pub const MAX_SEGMENTS: usize = 16;
    /// The longest segment, in bytes.
    pub const MAX_SEGMENT_BYTES: usize = 128;

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `text` is a path, without keeping it: what a hot path asks before it looks something up.
    pub fn check(text: &str) -> Result<(), PathError> {
        if text.is_empty() {
            return Err(PathError::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(PathError::TooLong(text.len()));
        }
        let mut count = 0;
        for segment in text.split('/') {
            check_segment(segment)?;
            count += 1;
        }
        if count > Self::MAX_SEGMENTS {
            Err(PathError::TooDeep(count))
        } else {
            Ok(())
        }
    }
}

fn check_segment(segment: &str) -> Result<(), PathError> {
    if segment.is_empty() {
        return Err(PathError::EmptySegment);
    }
    if segment.len() > EntryPath::MAX_SEGMENT_BYTES {
        return Err(PathError::SegmentTooLong(segment.len()));
    }
    if segment == "." || segment == ".." || segment.starts_with('-') {
        return Err(PathError::Segment(segment.to_owned()));
    }
    match segment.bytes().find(|b| !allowed(*b)) {
        Some(byte) => Err(PathError::Byte(byte)),
        None => Ok(()),
    }
}

const fn allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b':' | b'@' | b'+' | b'=' | b'-')
}

/// Why a text is not the path of an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Nothing is there.
    #[error("the path is empty")]
    Empty,
    /// Over [`EntryPath::MAX_BYTES`].
    #[error("the path has {0} bytes; the most is {max}", max = EntryPath::MAX_BYTES)]
    TooLong(usize),
    /// Over [`EntryPath::MAX_SEGMENTS`].
    #[error("the path has {0} segments; the most is {max}", max = EntryPath::MAX_SEGMENTS)]
    TooDeep(usize),
    /// Over [`EntryPath::MAX_SEGMENT_BYTES`].
    #[error("a segment of the path has {0} bytes; the most is {max}", max = EntryPath::MAX_SEGMENT_BYTES)]
    SegmentTooLong(usize),
    /// A slash at the start, at the end, or two in a row.
    #[error("the path has an empty segment: write it without a slash at its start or end and without '//'")]
    EmptySegment,
    /// A segment that looks like something else than a name.
    #[error("the segment '{0}' is not allowed: a segment is not '.' or '..' and doesn't begin with '-'")]
    Segment(String),
    /// A byte outside the allow-list.
    #[error(
        "the path holds the byte 0x{0:02x}; allowed are A-Z a-z 0-9 _ . : @ + = - and '/' between segments"
    )]
    Byte(u8),
}

impl FromStr for EntryPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::check(text)?;
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for EntryPath {
    type Error = PathError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl std::borrow::Borrow<str> for EntryPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Deref for EntryPath {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for EntryPath {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for EntryPath {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A subtree of an instance's entries: everything, or one path and all below it.
///
/// Prefixes end at segment borders: `net` covers `net` and `net/mac`, never `network`. The empty text is everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathPrefix(Option<EntryPath>);

impl PathPrefix {
    /// All entries of an instance.
    pub const ALL: Self = Self(None);

    /// Whether `path` lies in the subtree.
    pub fn covers(&self, path: &str) -> bool {
        match &self.0 {
            None => true,
            Some(top) => path
                .strip_prefix(top.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }

    /// Whether all that `other` covers lies in the subtree.
    pub fn includes(&self, other: &Self) -> bool {
        match &other.0 {
            None => self.0.is_none(),
            Some(top) => self.covers(top.as_str()),
        }
    }

    /// The prefix as text, empty for everything.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("")
    }
}

impl From<EntryPath> for PathPrefix {
    fn from(path: EntryPath) -> Self {
        Self(Some(path))
    }
}

impl FromStr for PathPrefix {
    type Err = PathError;

    /// Takes one trailing slash, as people write subtrees.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Ok(Self::ALL);
        }
        text.strip_suffix('/')
            .unwrap_or(text)
            .parse()
            .map(|path| Self(Some(path)))
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for PathPrefix {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for PathPrefix {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::{EntryPath, PathPrefix};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_parses_is_what_was_written(text in "\\PC{0,40}|[A-Za-z0-9_.:@+=/-]{0,600}") {
            if let Ok(path) = text.parse::<EntryPath>() {
                prop_assert_eq!(path.as_str(), &text);
                prop_assert!(!text.contains("//") && !text.starts_with('/') && !text.ends_with('/'));
                prop_assert!(text.split('/').all(|s| s != ".." && s != "." && !s.starts_with('-')));
            }
        }

        #[test]
        fn a_prefix_covers_whole_segments(a in "[a-c]{1,2}(/[a-c]{1,2}){0,2}", b in "[a-c]{1,2}(/[a-c]{1,2}){0,3}") {
            let covered: Vec<_> = a.split('/').collect();
            let expected = b.split('/').take(covered.len()).eq(covered.iter().copied());
            prop_assert_eq!(a.parse::<PathPrefix>().unwrap().covers(&b), expected);
        }
    }

    #[test]
    fn a_prefix_includes_the_narrower_ones() {
        let prefix = |text: &str| text.parse::<PathPrefix>().unwrap();
        for (wide, narrow) in [("", ""), ("", "a"), ("a", "a"), ("a", "a/b")] {
            assert!(prefix(wide).includes(&prefix(narrow)), "{wide:?} {narrow:?}");
        }
        for (wide, narrow) in [("a", ""), ("a/b", "a"), ("a", "ab")] {
            assert!(!prefix(wide).includes(&prefix(narrow)), "{wide:?} {narrow:?}");
        }
    }

    #[test]
    fn tricks_are_refused() {
        let long = "a".repeat(129);
        let deep = ["a"; 17].join("/");
        let tricks = [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            "..",
            "a/../b",
            ".",
            "a/.",
            "-rf",
            "a/-b",
            "a%2fb",
            "a\0b",
            "a b",
            "a\\b",
            "caf\u{e9}",
            "a\u{202e}b",
            "a\nb",
            &long,
            &deep,
        ];
        for trick in tricks {
            assert!(trick.parse::<EntryPath>().is_err(), "{trick:?} was taken");
        }
    }
}
