//! Signatures of requests: HTTP Message Signatures (RFC 9421) as instances and their hosts make them. Pure: what is to
//! be signed goes in, the bytes that a signature is made of come out; who has the key computes it.
//!
//! An instance signs what it asks of the control plane, with the label [`GUEST`]. What it covers is not its choice:
//! [`covered`] says it for signer and verifier alike. Its host passes the request on as it is and signs the guest's
//! signature, with the label [`HOST`], so that the control plane knows from both where the request was made and by whom.
//!
//! ```text
//! moorline-token: mli_AQEF...
//! content-digest: sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:
//! idempotency-key: 5f3a...
//! signature-input: guest=("@method" "@authority" "@path" "@query" "content-digest" "moorline-token" "idempotency-key");
//!     created=1618884473;nonce="wqcAqbmYJ2ji2glfAMaRy4";keyid="t-...";alg="ed25519";tag="moorline-instance"
//! signature: guest=:...:
//! signature-input: host=("signature";key="guest");created=1618884473;keyid="0a1b...";alg="ecdsa-p256-sha256";tag="moorline-host"
//! signature: host=:...:
//! ```
//!
//! `@authority` is the deployment's name, as `HELLO_ACK` tells it: the guest doesn't know at which address its host
//! reaches the control plane, and a request for one deployment must mean nothing to another.

mod base;
mod clock;
pub mod content_digest;
mod field;
mod input;
#[cfg(test)]
mod tests;

use std::str::FromStr;

pub use base::{BaseError, Request, signatures};
pub use clock::Clock;
pub use field::{FieldError, MAX_FIELD_BYTES};
pub use input::{Component, Input, Parameter, Seconds, Text};

use crate::api::IDEMPOTENCY_KEY;

/// The field with what signatures are made over.
pub const SIGNATURE_INPUT: &str = "signature-input";
/// The field with the signatures.
pub const SIGNATURE: &str = "signature";
/// The field with the digest of the body.
pub const CONTENT_DIGEST: &str = "content-digest";
/// The field with the instance's token.
pub const TOKEN: &str = "moorline-token";

/// The label of an instance's signature.
pub const GUEST: &str = "guest";
/// The label of its host's.
pub const HOST: &str = "host";
/// The tag of an instance's signature.
pub const GUEST_TAG: &str = "moorline-instance";
/// The tag of its host's.
pub const HOST_TAG: &str = "moorline-host";

/// How far from the control plane's clock a signature may have been made, in seconds.
pub const WINDOW_SECONDS: i64 = 60;
/// How long a nonce may be, in characters.
pub const NONCE_CHARS: std::ops::RangeInclusive<usize> = 16..=64;

/// How a signature is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256 under the key that came with the token.
    HmacSha256,
    /// Ed25519 under a key that the guest made itself.
    Ed25519,
    /// ECDSA on P-256 with SHA-256, both numbers in 32 bytes each: what hosts sign with.
    EcdsaP256Sha256,
}

impl Algorithm {
    const ALL: [Self; 3] = [Self::HmacSha256, Self::Ed25519, Self::EcdsaP256Sha256];

    /// Its name in the registry of RFC 9421.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HmacSha256 => "hmac-sha256",
            Self::Ed25519 => "ed25519",
            Self::EcdsaP256Sha256 => "ecdsa-p256-sha256",
        }
    }
}

/// A name that is no algorithm's here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an algorithm is hmac-sha256, ed25519 or ecdsa-p256-sha256")]
pub struct AlgorithmError;

impl FromStr for Algorithm {
    type Err = AlgorithmError;

    fn from_str(name: &str) -> Result<Self, AlgorithmError> {
        let mut all = Self::ALL.into_iter();
        all.find(|algorithm| algorithm.as_str() == name)
            .ok_or(AlgorithmError)
    }
}

/// What an instance's signature of this request covers, in this order. Fields that say on what condition a change is
/// made are covered where they are; all others must be there.
pub fn covered(request: &Request<'_>) -> Vec<Component> {
    const ALWAYS: [&str; 7] = [
        "@method",
        "@authority",
        "@path",
        "@query",
        CONTENT_DIGEST,
        TOKEN,
        IDEMPOTENCY_KEY,
    ];
    const WHERE_PRESENT: [&str; 2] = ["if-match", "if-none-match"];
    let is_present = |name: &&&str| request.fields.iter().any(|(known, _)| known == *name);
    let present = WHERE_PRESENT.iter().filter(is_present);
    ALWAYS
        .iter()
        .chain(present)
        .map(|name| Component::new(name))
        .collect()
}

/// What an instance signs of `request`.
pub fn guest_input(
    request: &Request<'_>,
    created: Seconds,
    nonce: &str,
    token_id: &str,
    algorithm: Algorithm,
) -> Input {
    let parameters = vec![
        Parameter::Created(created),
        Parameter::Nonce(nonce.into()),
        Parameter::KeyId(token_id.into()),
        Parameter::Algorithm(algorithm.as_str().into()),
        Parameter::Tag(GUEST_TAG.into()),
    ];
    Input::new(covered(request), parameters)
}

/// What a host signs of a request that its guest signed.
pub fn host_input(created: Seconds, key_id: &str) -> Input {
    let parameters = vec![
        Parameter::Created(created),
        Parameter::KeyId(key_id.into()),
        Parameter::Algorithm(Algorithm::EcdsaP256Sha256.as_str().into()),
        Parameter::Tag(HOST_TAG.into()),
    ];
    Input::new(host_covered(), parameters)
}

/// What a host's signature covers.
pub fn host_covered() -> Vec<Component> {
    vec![Component::member(SIGNATURE, GUEST)]
}

/// The two fields of a signature, with their names.
pub fn fields(label: &str, input: &Input, signature: &[u8]) -> [(&'static str, String); 2] {
    let signature = field::written_bytes(signature);
    [
        (SIGNATURE_INPUT, format!("{label}={input}")),
        (SIGNATURE, format!("{label}={signature}")),
    ]
}
