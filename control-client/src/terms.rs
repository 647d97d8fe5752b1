//! On what terms a change is asked for: under which key, and on what condition.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use moorline_shared::Revision;
use moorline_shared::api::IDEMPOTENCY_KEY;
use moorline_shared::api::data::EntryGuard;
use moorline_shared::id::IdempotencyKey;

/// A key that was never used: 128 random bits.
///
/// # Panics
/// If the kernel gives no random bytes, which it doesn't refuse after boot.
pub fn fresh_key() -> IdempotencyKey {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    let text = format!("{:032x}", u128::from_be_bytes(bytes));
    text.parse().expect("hexadecimal digits are a key")
}

/// The key of a change of an entry, and what the entry must be for it to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What makes it safe to send again.
    pub key: IdempotencyKey,
    /// What the entry must be; absent for whatever it is.
    pub guard: Option<EntryGuard>,
}

impl Terms {
    /// Under a fresh key, without a condition.
    pub fn fresh() -> Self {
        Self::keyed(fresh_key())
    }

    /// Under this key, without a condition.
    pub fn keyed(key: IdempotencyKey) -> Self {
        Self { key, guard: None }
    }

    /// The same, if there is no such entry yet.
    #[must_use]
    pub fn if_absent(mut self) -> Self {
        self.guard = Some(EntryGuard::Absent);
        self
    }

    /// The same, if the entry last changed at `revision`.
    #[must_use]
    pub fn if_revision(mut self, revision: Revision) -> Self {
        self.guard = Some(EntryGuard::Revision(revision));
        self
    }

    pub(crate) fn headers(&self) -> HeaderMap {
        let mut headers = key_header(&self.key);
        match self.guard {
            None => None,
            Some(EntryGuard::Absent) => headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("*")),
            Some(EntryGuard::Revision(revision)) => headers.insert(header::IF_MATCH, quoted(&revision)),
        };
        headers
    }
}

pub(crate) fn key_header(key: &IdempotencyKey) -> HeaderMap {
    let value = HeaderValue::from_str(&key.to_string()).expect("a key is printable ASCII");
    HeaderMap::from_iter([(HeaderName::from_static(IDEMPOTENCY_KEY), value)])
}

/// An entity tag (RFC 9110, 8.8.3) of digits, letters, dots and dashes.
pub(crate) fn quoted(tag: &impl ToString) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{}\"", tag.to_string())).expect("revisions and digests are ASCII")
}
