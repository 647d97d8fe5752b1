//! A token as text, and the memory that one is opened in.

use std::fmt;

use base64_simd::{AsOut as _, URL_SAFE_NO_PAD};

use super::bundle::Kind;
use super::{MAX_CHARS, OpenError};

/// A sealed bundle as text: what whoever it was made for shows. There is no `Display`, and `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    pub(super) fn encode(kind: Kind, bytes: &[u8]) -> Self {
        let mut text = String::with_capacity(4 + bytes.len().div_ceil(3) * 4);
        text.push_str(kind.prefix());
        URL_SAFE_NO_PAD.encode_append(bytes, &mut text);
        Self(text)
    }

    /// The text, to be handed to whom it was made for and to nobody else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Where a token is taken apart. One serves any number of tokens, one after the other, without an allocation.
pub struct Opening {
    bytes: [u8; MAX_CHARS],
}

impl Opening {
    /// Fresh memory.
    pub const fn new() -> Self {
        Self {
            bytes: [0; MAX_CHARS],
        }
    }

    /// Decodes a token's text, of which nothing has been looked at. Its length is checked before anything else.
    pub(super) fn decode(&mut self, text: &str) -> Result<(Kind, &mut [u8]), OpenError> {
        if text.len() > MAX_CHARS {
            return Err(OpenError::TooLong(text.len()));
        }
        let (kind, text) = Kind::strip(text).ok_or(OpenError::NotAToken)?;
        let decoded = URL_SAFE_NO_PAD.decode(text.as_bytes(), self.bytes[..].as_out());
        Ok((kind, decoded.map_err(|_| OpenError::NotAToken)?))
    }
}

impl Default for Opening {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opening(hidden)")
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        use zeroize::Zeroize as _;
        self.bytes.zeroize();
    }
}
