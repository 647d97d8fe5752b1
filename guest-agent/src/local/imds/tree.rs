//! Walks the table: finds what a path shows, and lists what is below it.

use std::borrow::Cow;
use std::collections::BTreeSet;

use bytes::Bytes;
use moorline_shared::link::Moment;
use percent_encoding::percent_decode_str;

use super::request::segments;
use super::table::{TABLE, VERSIONS};
use crate::access::Peer;
use crate::credentials::Held;
use crate::local::Backing;
use crate::local::view::View;
use crate::mirror::Lookup;

/// A path below its version, with `*` for a name that the data give, and what it shows.
pub(super) struct Row(pub(super) &'static str, pub(super) Source);

/// Where what is shown comes from.
pub(super) enum Source {
    /// The text of an entry.
    Entry(&'static str),
    /// The text of the first of these that is there.
    FirstOf(&'static [&'static str]),
    /// The bytes of an entry, as they are.
    Raw(&'static str),
    /// A document that is made.
    Json(fn(&State<'_>) -> Option<Bytes>),
    /// The names that stand for the `*`, and what is shown of one.
    Names(fn(&State<'_>) -> Vec<Name>, fn(&State<'_>, &str) -> Option<Shown>),
}

/// A name that the data give.
pub(super) struct Name {
    /// As a segment of a path.
    pub(super) segment: String,
    /// As a listing writes it, where that is something else.
    pub(super) listed: Option<String>,
}

/// What a path shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// Text without a newline at its end.
    Text(Bytes),
    /// Bytes as they are.
    Raw(Bytes),
    /// A JSON document.
    Json(Bytes),
}

/// One state of everything, as a peer may see it.
pub(super) struct State<'a> {
    pub(super) view: View<'a>,
    pub(super) held: &'a Held,
    pub(super) backing: &'a Backing,
    pub(super) peer: &'a Peer,
    pub(super) now: Moment,
}

impl State<'_> {
    /// The bytes of an entry that is valid, and that the peer may read.
    pub(super) fn bytes(&self, path: &str) -> Option<Bytes> {
        match self.view.get(path, self.now) {
            Lookup::Found(entry) => Some(entry.value().bytes().clone()),
            Lookup::Expired(_) | Lookup::Absent | Lookup::Unknown => None,
        }
    }

    /// The same without the newlines at their end: one there makes some clients see a list.
    pub(super) fn text(&self, path: &str) -> Option<Bytes> {
        let mut bytes = self.bytes(path)?;
        let last = bytes.iter().rposition(|byte| !b"\r\n".contains(byte));
        bytes.truncate(last.map_or(0, |at| at + 1));
        Some(bytes)
    }

    /// The same as a string, if it is one.
    pub(super) fn string(&self, path: &str) -> Option<String> {
        String::from_utf8(self.text(path)?.to_vec()).ok()
    }
}

/// What a path names: a version, and what is below it.
#[derive(Clone, Debug)]
pub(super) enum Target<'a> {
    /// The versions.
    Root,
    /// A path below a version, without slashes that mean nothing.
    Below(Cow<'a, str>),
}

impl<'a> Target<'a> {
    /// Reads a path; none if its first part is no version.
    pub(super) fn parse(path: &'a str) -> Option<Self> {
        let path = path.trim_matches('/');
        if path.is_empty() {
            return Some(Self::Root);
        }
        let (version, below) = path.split_once('/').unwrap_or((path, ""));
        is_version(version).then(|| Self::Below(plain(below)))
    }

    /// The same, to be kept.
    pub(super) fn into_owned(self) -> Target<'static> {
        match self {
            Self::Root => Target::Root,
            Self::Below(path) => Target::Below(Cow::Owned(path.into_owned())),
        }
    }

    /// Whether the answer depends on credentials.
    pub(super) fn is_of_credentials(&self) -> bool {
        matches!(self, Self::Below(path) if path.starts_with("meta-data") && "meta-data/iam".starts_with(&**path)
            || path.starts_with("meta-data/iam/"))
    }

    /// What is there.
    pub(super) fn show(&self, state: &State<'_>) -> Option<Shown> {
        match self {
            Self::Root => Some(Shown::Text(VERSIONS.join("\n").into())),
            Self::Below(path) => leaf(path, state).or_else(|| listing(path, state)),
        }
    }
}

/// The path without slashes that are doubled or at its beginning, and with what is written in percent signs.
fn plain(path: &str) -> Cow<'_, str> {
    let path = path.trim_start_matches('/');
    if !path.contains("//") && !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let path = segments(path).collect::<Vec<_>>().join("/");
    // What isn't text names nothing.
    Cow::Owned(percent_decode_str(&path).decode_utf8_lossy().into_owned())
}

/// `latest`, `1.0`, or a date.
fn is_version(text: &str) -> bool {
    let bytes = text.as_bytes();
    let date = bytes.len() == 10
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    date || text == "latest" || text == "1.0"
}

fn leaf(path: &str, state: &State<'_>) -> Option<Shown> {
    TABLE.iter().find_map(|Row(pattern, source)| match source {
        Source::Names(_, shown) => shown(state, starred(pattern, path)?),
        _ if *pattern != path => None,
        Source::Entry(entry) => state.text(entry).map(Shown::Text),
        Source::FirstOf(entries) => entries
            .iter()
            .find_map(|entry| state.text(entry))
            .map(Shown::Text),
        Source::Raw(entry) => state.bytes(entry).map(Shown::Raw),
        Source::Json(make) => make(state).map(Shown::Json),
    })
}

/// The name in `path` that stands where `pattern` has its star.
fn starred<'p>(pattern: &str, path: &'p str) -> Option<&'p str> {
    let (before, after) = pattern.split_once('*')?;
    let name = path.strip_prefix(before)?.strip_suffix(after)?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

/// The names below a folder, one a line; none if there are none.
fn listing(folder: &str, state: &State<'_>) -> Option<Shown> {
    let names: BTreeSet<String> = TABLE
        .iter()
        .flat_map(|row| row.names_below(folder, state))
        .collect();
    if names.is_empty() {
        return None;
    }
    let lines: Vec<String> = names.into_iter().collect();
    Some(Shown::Text(lines.join("\n").into()))
}

impl Row {
    /// What this row adds to the listing of `folder`, which has something to show behind every name.
    fn names_below(&self, folder: &str, state: &State<'_>) -> Vec<String> {
        let Self(pattern, source) = self;
        let (mut pattern, mut inside) = (segments(pattern), None);
        for segment in segments(folder) {
            match pattern.next() {
                Some("*") => inside = Some(segment),
                Some(fixed) if fixed == segment => {}
                _ => return Vec::new(),
            }
        }
        let Some(next) = pattern.next() else {
            return Vec::new();
        };
        let slash = if pattern.next().is_some() { "/" } else { "" };
        match source {
            Source::Names(names, _) if next == "*" => {
                names(state).into_iter().map(|name| name.line(slash)).collect()
            }
            Source::Names(names, _) => {
                let fits = |name: &Name| inside.is_none_or(|inside| inside == name.segment);
                let any = names(state).iter().any(fits);
                any.then(|| format!("{next}{slash}")).into_iter().collect()
            }
            _ => {
                let there = leaf(self.0, state).is_some();
                there.then(|| format!("{next}{slash}")).into_iter().collect()
            }
        }
    }
}

impl Name {
    fn line(self, slash: &str) -> String {
        self.listed.unwrap_or_else(|| self.segment + slash)
    }
}

#[cfg(test)]
mod tests {
    use super::{Target, is_version, starred};

    fn below(path: &str) -> Option<String> {
        match Target::parse(path)? {
            Target::Root => Some("/".to_owned()),
            Target::Below(path) => Some(path.into_owned()),
        }
    }

    #[test]
    fn slashes_that_mean_nothing_are_passed_over() {
        for (path, plain) in [
            ("/", "/"),
            ("//", "/"),
            ("/latest", ""),
            ("/latest/", ""),
            ("/latest/meta-data/instance-id", "meta-data/instance-id"),
            ("/latest//meta-data///instance-id/", "meta-data/instance-id"),
            (
                "//2009-04-04/meta-data/tags/instance/a%20b",
                "meta-data/tags/instance/a b",
            ),
        ] {
            assert_eq!(below(path).as_deref(), Some(plain), "{path}");
        }
        assert_eq!(below("/newest/meta-data"), None);
    }

    #[test]
    fn versions_are_latest_and_dates() {
        for version in ["latest", "1.0", "2009-04-04", "2021-03-23"] {
            assert!(is_version(version), "{version}");
        }
        for other in [
            "",
            "Latest",
            "2009-4-4",
            "2009-04-041",
            "200a-04-04",
            "2009/04/04",
        ] {
            assert!(!is_version(other), "{other}");
        }
    }

    #[test]
    fn a_star_is_one_segment() {
        assert_eq!(starred("keys/*/key", "keys/0/key"), Some("0"));
        assert_eq!(starred("tags/*", "tags/a b"), Some("a b"));
        for (pattern, path) in [
            ("keys/*/key", "keys//key"),
            ("keys/*/key", "keys/key"),
            ("tags/*", "tags/a/b"),
            ("tags/*", "tags/"),
        ] {
            assert_eq!(starred(pattern, path), None, "{path}");
        }
    }

    #[test]
    fn what_depends_on_credentials_is_known_by_its_path() {
        for (path, depends) in [
            ("/latest/meta-data", true),
            ("/latest/meta-data/iam/", true),
            ("/latest/meta-data/iam/security-credentials/", true),
            ("/latest/meta-data/instance-id", false),
            ("/latest/user-data", false),
            ("/latest/", false),
        ] {
            assert_eq!(
                Target::parse(path).unwrap().is_of_credentials(),
                depends,
                "{path}"
            );
        }
    }
}
