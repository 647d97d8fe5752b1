//! Tokens: sealed bundles that only this control plane can open, and nobody can change.
//!
//! A [`Bundle`] is what a token says, laid out by [`layout`]. A [`KeyRing`] holds the keys of the deployment.
//! [`KeyRing::seal`] makes a [`Token`] of a bundle, and [`KeyRing::unseal`] takes one apart again. Whether the session
//! behind it still stands is another question, which whoever opens a token asks next.
//!
//! As text a token is a prefix that names its kind, `mla_` for instance, and in unpadded URL-safe base64:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | header: version 1, suite 1, [`Kind`], 0, and the id of the key as a big-endian `u32` |
//! | 24 | nonce |
//! | 16 | commitment to the key: a token that opens under one key opens under no other |
//! | n | the bundle, encrypted |
//! | 16 | tag |
//!
//! Each kind has keys of its own, derived from the ring's, so that a token of one kind can't be passed for another: it
//! isn't that a check would notice, the key is simply a different one.

mod bundle;
mod layout;
mod ring;
mod text;

#[cfg(test)]
mod tests;

pub use bundle::{Bundle, Grant, Kind, SessionId, TokenId, TokenIdError};
pub use layout::LayoutError;
pub use ring::{KeyId, KeyRing, RingError, RootKey, Stage, Unsealed};
pub use text::{Opening, Token};

use moorline_shared::Timestamp;

/// The longest token that is even looked at, in characters.
pub const MAX_CHARS: usize = 700;

/// How far ahead of this machine's clock the one that issued a token may be, in milliseconds.
pub const MAX_AHEAD_MS: i64 = 5_000;

/// Why a token is not taken. Callers are told only that it isn't, and the time here; this is for records and tests.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It has more characters than any token.
    #[error("a token has at most {MAX_CHARS} characters, not {0}")]
    TooLong(usize),
    /// It has no known prefix, is not base64, or is too short to be anything.
    #[error("this is not a token")]
    NotAToken,
    /// Its header and its prefix don't go together, or are of a version that isn't known here.
    #[error("the token's header is not one that this version makes")]
    Header,
    /// Its key isn't in the ring: destroyed, or not this deployment's.
    #[error("the token was sealed with key {0}, which is not in the ring")]
    UnknownKey(KeyId),
    /// It was not sealed here, or changed since.
    #[error("the token is not genuine")]
    Forged,
    /// It is genuine, and says what this version doesn't understand.
    #[error("the token's content can't be understood")]
    Layout(#[source] LayoutError),
    /// Its time is over.
    #[error("the token expired at {0}")]
    Expired(Timestamp),
    /// It was issued later than now.
    #[error("the token is from the future: it was issued at {0}")]
    Early(Timestamp),
}
