//! The token that a new host is enrolled with: where the control plane is, whom it is known by, and a secret, in one text
//! that can be copied.
//!
//! `mle_` and base64url of `version(1) | authority(32) | secret(32) | length of the name(1) | name | URL | check(4)`.
//! The check is the beginning of the SHA-256 digest of all before it: it proves nothing, and tells a token that was cut
//! off when it was copied from one that is no longer good.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::digest::Digest;
use crate::id::HostId;
use crate::secret::{Secret, SecretKey};

const PREFIX: &str = "mle_";
const VERSION: u8 = 1;
const CHECK: usize = 4;
/// Where the name's length is.
const NAME: usize = 1 + 32 + 32;
/// The longest address that a token carries, in bytes.
const MAX_URL: usize = 512;
/// The longest token, in characters.
const MAX_TEXT: usize = 1_024;

/// What a new host is given.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolmentToken {
    /// The host that it makes of a machine.
    pub host: HostId,
    /// Where the control plane is.
    pub url: String,
    /// The digest of the certificate of the control plane's authority.
    pub authority: Digest,
    /// The secret, good once.
    pub secret: SecretKey,
}

/// The number of a host's certificate as text, in lowercase hexadecimal. The control plane finds a host's key by it, so
/// that both must write it alike.
pub fn serial_text(serial: &[u8]) -> String {
    use fmt::Write as _;
    let mut text = String::with_capacity(serial.len() * 2);
    for byte in serial {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

impl fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EnrolmentToken({} at {}, hidden)", self.host, self.url)
    }
}

/// Why a text is not an enrolment token. What it was is not said: there may be a secret in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnrolmentTokenError {
    /// It begins otherwise.
    #[error("an enrolment token begins with mle_: make one with 'moorline host enroll-token NAME'")]
    Prefix,
    /// Something of it is missing or wrong.
    #[error("the enrolment token is not whole: copy all of it, from mle_ to its end")]
    Damaged,
    /// Made by a later release.
    #[error(
        "the enrolment token is of a kind that this release doesn't know: use the control plane's release here too"
    )]
    Version,
}

impl EnrolmentToken {
    /// The digest that the control plane knows the secret by.
    pub fn digest_of(secret: &SecretKey) -> Digest {
        Digest::of_parts([b"moorline enrolment v1".as_slice(), secret.expose()])
    }

    /// The token as it is given to a machine, whose operator must keep it to themselves.
    ///
    /// # Errors
    /// [`EnrolmentTokenError::Damaged`] if the address is too long to be carried.
    pub fn text(&self) -> Result<Secret, EnrolmentTokenError> {
        if self.url.is_empty() || self.url.len() > MAX_URL {
            return Err(EnrolmentTokenError::Damaged);
        }
        let name = self.host.as_str().as_bytes();
        let mut bytes = Zeroizing::new(Vec::with_capacity(NAME + 1 + name.len() + self.url.len() + CHECK));
        bytes.push(VERSION);
        bytes.extend_from_slice(self.authority.bytes());
        bytes.extend_from_slice(self.secret.expose());
        bytes.push(u8::try_from(name.len()).expect("names have at most 63 bytes"));
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(self.url.as_bytes());
        let check = Digest::of(&bytes);
        bytes.extend_from_slice(&check.bytes()[..CHECK]);
        Ok(Secret::from(format!(
            "{PREFIX}{}",
            URL_SAFE_NO_PAD.encode(&bytes)
        )))
    }
}

impl FromStr for EnrolmentToken {
    type Err = EnrolmentTokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        use EnrolmentTokenError::{Damaged, Prefix, Version};
        let text = text.strip_prefix(PREFIX).ok_or(Prefix)?;
        if text.len() > MAX_TEXT {
            return Err(Damaged);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Damaged)?;
        let bytes = Zeroizing::new(bytes);
        let (body, check) = bytes.split_last_chunk::<CHECK>().ok_or(Damaged)?;
        if Digest::of(body).bytes()[..CHECK] != *check {
            return Err(Damaged);
        }
        if body.first() != Some(&VERSION) {
            return Err(Version);
        }
        parsed(body).ok_or(Damaged)
    }
}

fn parsed(body: &[u8]) -> Option<EnrolmentToken> {
    let authority: [u8; 32] = body.get(1..33)?.try_into().ok()?;
    let secret: [u8; 32] = body.get(33..NAME)?.try_into().ok()?;
    let length = usize::from(*body.get(NAME)?);
    let (name, url) = body[NAME + 1..].split_at_checked(length)?;
    if url.is_empty() || url.len() > MAX_URL {
        return None;
    }
    Some(EnrolmentToken {
        host: std::str::from_utf8(name).ok()?.parse().ok()?,
        url: std::str::from_utf8(url).ok()?.to_owned(),
        authority: authority.into(),
        secret: secret.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::{EnrolmentToken, EnrolmentTokenError, serial_text};
    use proptest::prelude::*;

    fn token() -> EnrolmentToken {
        EnrolmentToken {
            host: "host-2".parse().unwrap(),
            url: "https://control.example:8471".to_owned(),
            authority: [1; 32].into(),
            secret: [2; 32].into(),
        }
    }

    #[test]
    fn a_token_says_what_it_was_made_of_and_hides_its_secret() {
        let text = token().text().unwrap();
        assert_eq!(text.expose().parse(), Ok(token()));
        assert!(!format!("{:?}", token()).contains('2') || !format!("{:?}", token()).contains("22"));
    }

    #[test]
    fn every_byte_of_a_serial_is_two_digits() {
        assert_eq!(serial_text(&[0x0a, 0, 0xff]), "0a00ff");
    }

    #[test]
    fn whatever_is_missing_or_changed_is_noticed() {
        let text = token().text().unwrap();
        let text = text.expose();
        for length in 4..text.len() {
            assert_eq!(
                text[..length].parse::<EnrolmentToken>(),
                Err(EnrolmentTokenError::Damaged)
            );
        }
        for at in 4..text.len() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(changed.parse::<EnrolmentToken>().is_err(), "{at}");
        }
        assert_eq!(
            format!("{text}A").parse::<EnrolmentToken>(),
            Err(EnrolmentTokenError::Damaged)
        );
        assert_eq!(
            "mla_x".parse::<EnrolmentToken>(),
            Err(EnrolmentTokenError::Prefix)
        );
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text in "\\PC{0,80}", bytes: Vec<u8>) {
            use base64::Engine as _;
            let _ = text.parse::<EnrolmentToken>();
            let mut whole = bytes.clone();
            whole.extend_from_slice(&crate::Digest::of(&bytes).bytes()[..4]);
            let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(whole);
            let _ = format!("mle_{encoded}").parse::<EnrolmentToken>();
        }
    }
}
