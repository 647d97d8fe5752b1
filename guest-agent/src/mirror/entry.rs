//! An entry as the mirror has it, dressed for HTTP once, when it is applied, so that a read only copies pointers.

use bytes::Bytes;
use http::HeaderValue;
use moorline_shared::digest::Row;
use moorline_shared::link::Moment;
use moorline_shared::link::body::Mirrored;
use moorline_shared::{Digest, EntryPath, Revision};

/// An entry at the revision of its last change. `Debug` shows no value.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    path: EntryPath,
    revision: Revision,
    value: moorline_shared::entry::Value,
    is_secret: bool,
    expires_at: Option<Moment>,
    content_type: HeaderValue,
    etag: HeaderValue,
}

impl Entry {
    /// The entry that came at `now`.
    pub(super) fn new(path: &EntryPath, mirrored: Mirrored, now: Moment) -> Self {
        let content_type = HeaderValue::from_maybe_shared(Bytes::from(mirrored.content_type));
        Self {
            path: path.clone(),
            revision: mirrored.revision,
            expires_at: mirrored.valid_for_ms.map(|ms| Moment(now.0.saturating_add(ms))),
            value: mirrored.value,
            is_secret: false,
            // The control plane takes printable ASCII only; what isn't can't stand in a header.
            content_type: content_type.unwrap_or(HeaderValue::from_static("application/octet-stream")),
            etag: etag(mirrored.revision),
        }
    }

    /// It as it counts in the digest of all.
    pub(super) fn row(&self) -> Row<'_> {
        Row {
            path: self.path.as_str(),
            revision: self.revision,
            content_type: self.content_type.to_str().unwrap_or_default(),
            secret: self.is_secret,
            value: Digest::of(self.value.bytes()),
        }
    }

    /// Whether it is the same entry as another, whenever each came. A revision alone doesn't say so where a mirror was
    /// damaged.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let known = |entry: &Self| (entry.revision, entry.is_secret);
        known(self) == known(other) && self.content_type == other.content_type && self.value == other.value
    }

    /// The same as it came, with what is left of its validity at `now`.
    pub(super) fn mirrored(&self, now: Moment) -> Mirrored {
        Mirrored {
            revision: self.revision,
            // It was text before it was a header.
            content_type: String::from_utf8_lossy(self.content_type.as_bytes()).into_owned(),
            valid_for_ms: self.expires_at.map(|at| at.since(now)),
            value: self.value.clone(),
        }
    }

    /// The same as a secret one, whose bytes are wiped when they are let go.
    pub(super) fn secret(self) -> Self {
        Self {
            value: self.value.wiped(),
            is_secret: true,
            ..self
        }
    }

    /// Whether it is secret: by default only root is given it, and nothing keeps it on a disk.
    pub fn is_secret(&self) -> bool {
        self.is_secret
    }

    /// Its name.
    pub fn path(&self) -> &EntryPath {
        &self.path
    }

    /// When it last changed.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The bytes.
    pub fn value(&self) -> &moorline_shared::entry::Value {
        &self.value
    }

    /// What the bytes are, as the header `Content-Type`.
    pub fn content_type(&self) -> &HeaderValue {
        &self.content_type
    }

    /// The revision as the header `ETag`.
    pub fn etag(&self) -> &HeaderValue {
        &self.etag
    }

    /// When it stops being valid; `None` for never.
    pub fn expires_at(&self) -> Option<Moment> {
        self.expires_at
    }

    /// Whether it may be given out at `now`.
    pub fn is_valid(&self, now: Moment) -> bool {
        self.expires_at.is_none_or(|at| now < at)
    }
}

/// A revision as the header `ETag`: `"EPOCH.N"`.
pub fn etag(revision: Revision) -> HeaderValue {
    let text = format!("\"{revision}\"");
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static("\"0.0\""))
}
