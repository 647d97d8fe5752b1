//! How a request is signed: what of it, and with which key.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use moorline_shared::Digest;
use moorline_shared::api::IDEMPOTENCY_KEY;
use moorline_shared::id::IdempotencyKey;
use moorline_shared::link::body::Relay;
use moorline_shared::secret::SecretKey;
use moorline_shared::signature::{
    self, Algorithm, CONTENT_DIGEST, GUEST, Request, Seconds, TOKEN, content_digest, guest_input,
};
use ring::hmac;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use zeroize::Zeroizing;

use crate::credentials::InstanceToken;

/// A key that this guest made. It is in memory alone.
pub(super) struct OwnKey(Ed25519KeyPair);

impl OwnKey {
    /// A fresh one; `None` if the kernel gives no randomness.
    pub(super) fn make() -> Option<Self> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut seed[..]).ok()?;
        Ed25519KeyPair::from_seed_unchecked(&seed[..]).ok().map(Self)
    }

    /// Its public part, in base64.
    pub(super) fn public(&self) -> String {
        STANDARD.encode(self.0.public_key().as_ref())
    }
}

impl fmt::Debug for OwnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnKey(hidden)")
    }
}

/// What a request is signed with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Key<'a> {
    /// What came with the token.
    Shared(&'a SecretKey),
    /// This guest's own.
    Own(&'a OwnKey),
}

impl Key<'_> {
    const fn algorithm(self) -> Algorithm {
        match self {
            Self::Shared(_) => Algorithm::HmacSha256,
            Self::Own(_) => Algorithm::Ed25519,
        }
    }

    fn sign(self, base: &[u8]) -> Vec<u8> {
        match self {
            Self::Shared(key) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
                hmac::sign(&key, base).as_ref().to_vec()
            }
            Self::Own(key) => key.0.sign(base).as_ref().to_vec(),
        }
    }
}

/// Why a request can't be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The kernel gives no random bytes.
    #[error("the kernel gives no random bytes, so that nothing can be signed")]
    Random(#[from] getrandom::Error),
    /// Something in it can't stand in what is signed.
    #[error("the request can't be signed")]
    Base(#[from] signature::BaseError),
}

/// The request with everything that proves it to be this instance's. It must have an idempotency key.
pub(super) fn signed(
    plain: &Relay,
    authority: &str,
    token: &InstanceToken,
    key: Key<'_>,
    created: Seconds,
) -> Result<Relay, SignError> {
    let mut relay = plain.clone();
    let digest = content_digest::write(&Digest::of(relay.body.bytes()));
    relay.headers.push((CONTENT_DIGEST.to_owned(), digest));
    relay
        .headers
        .push((TOKEN.to_owned(), token.token.expose().to_owned()));
    let fields: Vec<(&str, &str)> = relay
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let request = Request {
        method: &relay.method,
        authority,
        target: &relay.target,
        fields: &fields,
    };
    let input = guest_input(
        &request,
        created,
        &random_text()?,
        &token.token_id,
        key.algorithm(),
    );
    let signature = key.sign(request.base(&input)?.as_bytes());
    let added = signature::fields(GUEST, &input, &signature);
    relay
        .headers
        .extend(added.map(|(name, value)| (name.to_owned(), value)));
    Ok(relay)
}

/// Gives the request an idempotency key, if it has none: it may have to be sent again.
pub(super) fn keyed(mut relay: Relay) -> Result<Relay, SignError> {
    if !relay.headers.iter().any(|(name, _)| name == IDEMPOTENCY_KEY) {
        relay.headers.push((IDEMPOTENCY_KEY.to_owned(), random_text()?));
    }
    Ok(relay)
}

/// An idempotency key that nobody used.
pub fn fresh_key() -> Result<IdempotencyKey, SignError> {
    let text = random_text()?;
    Ok(text.parse().expect("22 characters of base64 are printable ASCII"))
}

/// 128 random bits.
fn random_text() -> Result<String, SignError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)?;
    Ok(URL_SAFE_NO_PAD.encode(random))
}
