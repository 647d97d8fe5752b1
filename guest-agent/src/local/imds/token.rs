//! The tokens of version 2: stateless, sealed with a key of this process's life, good for as long as they were asked for
//! by a clock that counts suspend. They say nothing of who asked for them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use moorline_shared::link::Moment;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// What is sealed: the moment at which the token ends, in milliseconds.
const CONTENT: usize = 8;
/// A token in bytes: the nonce, what is sealed, and its tag.
const BYTES: usize = NONCE_LEN + CONTENT + 16;
/// A token as text: no other length is looked at.
pub(super) const TEXT: usize = BYTES.div_ceil(3) * 4;
const _: () = assert!(BYTES.is_multiple_of(3), "the text has no padding");

/// For how long a token is asked for, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TokenTtl(u32);

impl TokenTtl {
    /// The longest: six hours.
    const LONGEST: u32 = 21_600;

    /// Reads decimal digits.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        // A sign parses as a number and is none here.
        let digits = !text.is_empty() && text.len() <= 10 && text.iter().all(u8::is_ascii_digit);
        let seconds: u32 = std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()?;
        (1..=Self::LONGEST).contains(&seconds).then_some(Self(seconds))
    }

    pub(super) fn seconds(self) -> u32 {
        self.0
    }
}

/// There is no key.
#[derive(Debug, thiserror::Error)]
pub(in crate::local) enum KeyError {
    /// The kernel gives no random numbers.
    #[error("the kernel gives no random numbers")]
    Random(#[source] getrandom::Error),
    /// The cipher doesn't take the key.
    #[error("the cipher doesn't take the key")]
    Cipher,
}

/// Makes tokens and checks them.
#[derive(Debug)]
pub(super) struct Tokens {
    key: LessSafeKey,
}

impl Tokens {
    /// A new key, which nobody else has: tokens of another life are none.
    pub(super) fn new() -> Result<Self, KeyError> {
        let mut key = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(&mut *key).map_err(KeyError::Random)?;
        let key = UnboundKey::new(&AES_256_GCM, &*key).map_err(|_| KeyError::Cipher)?;
        Ok(Self {
            key: LessSafeKey::new(key),
        })
    }

    /// A token that is good from `now` on for `ttl`; none if the kernel gives no random numbers.
    pub(super) fn issue(&self, ttl: TokenTtl, now: Moment) -> Option<String> {
        let mut token = [0; BYTES];
        let (nonce, rest) = token.split_at_mut(NONCE_LEN);
        getrandom::fill(nonce).ok()?;
        let until = now.0.saturating_add(u64::from(ttl.0) * 1_000);
        let (content, tag) = rest.split_at_mut(CONTENT);
        content.copy_from_slice(&until.to_le_bytes());
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let sealed = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::empty(), content)
            .ok()?;
        tag.copy_from_slice(sealed.as_ref());
        Some(URL_SAFE_NO_PAD.encode(token))
    }

    /// Until when the token is good; none if it isn't at `now`.
    pub(super) fn check(&self, text: &[u8], now: Moment) -> Option<Moment> {
        if text.len() != TEXT {
            return None;
        }
        let mut token = [0; BYTES];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut token).ok()?;
        let (nonce, sealed) = token.get_mut(..length)?.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let content = self.key.open_in_place(nonce, Aad::empty(), sealed).ok()?;
        let until = Moment(u64::from_le_bytes((&*content).try_into().ok()?));
        (now < until).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::{Moment, TEXT, TokenTtl, Tokens};
    use proptest::prelude::*;

    fn ttl(text: &str) -> Option<u32> {
        TokenTtl::parse(text.as_bytes()).map(TokenTtl::seconds)
    }

    #[test]
    fn a_ttl_is_one_second_to_six_hours() {
        for (text, seconds) in [("1", 1), ("21600", 21_600), ("0060", 60)] {
            assert_eq!(ttl(text), Some(seconds));
        }
        for text in [
            "",
            "0",
            "21601",
            "-1",
            "+1",
            "1.5",
            " 1",
            "1 ",
            "x",
            "99999999999999999999",
            "\u{0661}",
        ] {
            assert_eq!(ttl(text), None, "{text}");
        }
    }

    #[test]
    fn a_token_is_good_until_it_ends_and_only_here() {
        let (tokens, other) = (Tokens::new().unwrap(), Tokens::new().unwrap());
        let token = tokens.issue(TokenTtl(2), Moment(1_000)).unwrap();
        assert_eq!(token.len(), TEXT);
        assert_eq!(tokens.check(token.as_bytes(), Moment(2_999)), Some(Moment(3_000)));
        assert_eq!(
            tokens.check(token.as_bytes(), Moment(3_000)),
            None,
            "it has ended"
        );
        assert_eq!(
            other.check(token.as_bytes(), Moment(1_000)),
            None,
            "of another boot"
        );
        assert_ne!(tokens.issue(TokenTtl(2), Moment(1_000)), Some(token));
    }

    #[test]
    fn every_byte_counts() {
        let tokens = Tokens::new().unwrap();
        let token = tokens.issue(TokenTtl(60), Moment(0)).unwrap().into_bytes();
        for at in 0..token.len() {
            for bit in 0..8 {
                let mut other = token.clone();
                other[at] ^= 1 << bit;
                assert_eq!(tokens.check(&other, Moment(0)), None, "byte {at}, bit {bit}");
            }
            assert_eq!(tokens.check(&token[..at], Moment(0)), None);
        }
        assert_eq!(tokens.check(&[&token[..], b"A"].concat(), Moment(0)), None);
        assert_eq!(tokens.check(&[b'A'; 10_000], Moment(0)), None);
    }

    proptest! {
        #[test]
        fn what_was_not_issued_is_no_token(text in "[A-Za-z0-9_-]{48}") {
            prop_assert_eq!(Tokens::new().unwrap().check(text.as_bytes(), Moment(0)), None);
        }
    }
}
