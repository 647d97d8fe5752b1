//! Whether an instance made a request, and its host passed it on: the checks of a relayed request, without a clock, a
//! store or a socket.
//!
//! [`Shown::read`] takes the head of a request apart: it must carry two signatures, of which the guest's covers all that
//! [`covered`] says, and the host's covers the guest's. [`Shown::check_guest`] and [`Shown::check_host`] then compare
//! them with the keys that they should be by.

use std::borrow::Cow;

use moorline_shared::secret::SecretKey;
use moorline_shared::signature::{
    self, Algorithm, BaseError, CONTENT_DIGEST, Component, FieldError, GUEST, GUEST_TAG, HOST, HOST_TAG,
    Input, NONCE_CHARS, Request, SIGNATURE, SIGNATURE_INPUT, Seconds, TOKEN, WINDOW_SECONDS, content_digest,
    covered, host_covered,
};
use moorline_shared::{Digest, Timestamp};
use ring::hmac;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey, VerificationAlgorithm};

/// Why a request is not taken for an instance's. The caller is told little of it; this is for records and tests.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// A field that must be there isn't.
    #[error("the request has no {0}")]
    Missing(&'static str),
    /// A field can't be read.
    #[error("{0}: {1}")]
    Field(&'static str, FieldError),
    /// There are other signatures than the two.
    #[error("the request must have the signatures 'guest' and 'host', each once, and no other")]
    Labels,
    /// A signature doesn't cover what it must.
    #[error("the signature '{0}' doesn't cover what it must, in the order that it must")]
    Coverage(&'static str),
    /// What a signature says of itself isn't so.
    #[error("the signature '{label}' has no good {parameter}")]
    Parameter {
        /// Which signature.
        label: &'static str,
        /// Which parameter.
        parameter: &'static str,
    },
    /// The instance signs otherwise than its session says.
    #[error("the request is signed by {found}, and the instance's session needs {}", needed.as_str())]
    Algorithm {
        /// How it is signed.
        found: String,
        /// How it must be.
        needed: Algorithm,
    },
    /// There is nothing that could have been signed.
    #[error("the request can't have been signed: {0}")]
    Base(#[from] BaseError),
    /// A signature was not made over this request with its key.
    #[error("the signature '{0}' is not one of this request by this key")]
    Signature(&'static str),
    /// A signature was made too long ago, or is to be made yet.
    #[error("the signature '{label}' was made at {made}, {WINDOW_SECONDS} seconds or more away from now")]
    OutOfTime {
        /// Which signature.
        label: &'static str,
        /// When, in seconds since 1970.
        made: Seconds,
    },
    /// The body is not the one that was signed.
    #[error("the body is not the one that was signed")]
    Body,
}

/// What an instance signs with.
#[derive(Debug)]
pub enum GuestKey {
    /// The key that came with its token.
    Shared(SecretKey),
    /// A key of its own, of which this is the public part.
    Own([u8; 32]),
}

impl GuestKey {
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Shared(_) => Algorithm::HmacSha256,
            Self::Own(_) => Algorithm::Ed25519,
        }
    }

    fn verifies(&self, base: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Shared(key) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
                hmac::verify(&key, base, signature).is_ok()
            }
            Self::Own(public) => is_by(&ED25519, public, base, signature),
        }
    }
}

fn is_by(algorithm: &'static dyn VerificationAlgorithm, key: &[u8], base: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(algorithm, key)
        .verify(base, signature)
        .is_ok()
}

/// What a request shows of who made it and who passed it on. Nothing of it is known to be so.
#[derive(Debug)]
pub struct Shown<'a> {
    request: Request<'a>,
    guest: Signed,
    host: Signed,
    token: String,
    body: Digest,
}

#[derive(Debug)]
struct Signed {
    label: &'static str,
    input: Input,
    signature: Vec<u8>,
    created: Seconds,
}

impl<'a> Shown<'a> {
    /// Takes the head of a request apart.
    pub fn read(request: Request<'a>) -> Result<Self, Unproven> {
        let inputs = required(&request, SIGNATURE_INPUT)?;
        let inputs = Input::read_all(&inputs).map_err(|error| Unproven::Field(SIGNATURE_INPUT, error))?;
        let signatures = required(&request, SIGNATURE)?;
        let signatures =
            signature::signatures(&signatures).map_err(|error| Unproven::Field(SIGNATURE, error))?;
        if inputs.len() != 2 || signatures.len() != 2 {
            return Err(Unproven::Labels);
        }
        let signed =
            |label, tag, covered: &[Component]| Signed::find(label, tag, covered, &inputs, &signatures);
        let digest = required(&request, CONTENT_DIGEST)?;
        Ok(Self {
            guest: signed(GUEST, GUEST_TAG, &covered(&request))?,
            host: signed(HOST, HOST_TAG, &host_covered())?,
            token: required(&request, TOKEN)?.into_owned(),
            body: content_digest::read(&digest).map_err(|error| Unproven::Field(CONTENT_DIGEST, error))?,
            request,
        })
    }

    /// The token that it shows.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// What its body must be.
    pub fn body(&self) -> Digest {
        self.body
    }

    /// The text that no other request of the instance has.
    pub fn nonce(&self) -> Result<&str, Unproven> {
        let nonce = self.guest.input.nonce();
        nonce
            .filter(|nonce| NONCE_CHARS.contains(&nonce.len()))
            .ok_or_else(|| self.guest.without("nonce"))
    }

    /// Whether whoever has `key`, which belongs to the token with this id, made this request just now.
    pub fn check_guest(&self, key: &GuestKey, token_id: &str, now: Timestamp) -> Result<(), Unproven> {
        let algorithm = self.guest.input.algorithm().unwrap_or_default();
        if algorithm != key.algorithm().as_str() {
            return Err(Unproven::Algorithm {
                found: algorithm.to_owned(),
                needed: key.algorithm(),
            });
        }
        self.guest.is_by(token_id)?;
        self.nonce()?;
        let base = self.request.base(&self.guest.input)?;
        if !key.verifies(base.as_bytes(), &self.guest.signature) {
            return Err(Unproven::Signature(GUEST));
        }
        self.guest.in_time(now)
    }

    /// Whether the host with this public key on P-256, uncompressed, passed this request on just now.
    pub fn check_host(&self, public: &[u8], key_id: &str, now: Timestamp) -> Result<(), Unproven> {
        let needed = Algorithm::EcdsaP256Sha256;
        if self.host.input.algorithm() != Some(needed.as_str()) {
            return Err(self.host.without("alg"));
        }
        self.host.is_by(key_id)?;
        let base = self.request.base(&self.host.input)?;
        if !is_by(
            &ECDSA_P256_SHA256_FIXED,
            public,
            base.as_bytes(),
            &self.host.signature,
        ) {
            return Err(Unproven::Signature(HOST));
        }
        self.host.in_time(now)
    }
}

impl Signed {
    fn find(
        label: &'static str,
        tag: &str,
        covered: &[Component],
        inputs: &[(String, Input)],
        signatures: &[(String, Vec<u8>)],
    ) -> Result<Self, Unproven> {
        let input = inputs.iter().find(|(name, _)| name == label);
        let signature = signatures.iter().find(|(name, _)| name == label);
        let (Some((_, input)), Some((_, signature))) = (input, signature) else {
            return Err(Unproven::Labels);
        };
        let signed = Self {
            label,
            input: input.clone(),
            signature: signature.clone(),
            created: input.created().unwrap_or(Seconds(0)),
        };
        if input.components() != covered {
            return Err(Unproven::Coverage(label));
        }
        if input.tag() != Some(tag) {
            return Err(signed.without("tag"));
        }
        // What it says of its end would have to be kept to; nothing needs it.
        if input.expires().is_some() {
            return Err(signed.without("expires"));
        }
        Ok(signed)
    }

    fn without(&self, parameter: &'static str) -> Unproven {
        Unproven::Parameter {
            label: self.label,
            parameter,
        }
    }

    fn is_by(&self, key_id: &str) -> Result<(), Unproven> {
        match self.input.key_id() {
            Some(found) if found == key_id => Ok(()),
            _ => Err(self.without("keyid")),
        }
    }

    fn in_time(&self, now: Timestamp) -> Result<(), Unproven> {
        let now = now.millis().div_euclid(1_000);
        if now.abs_diff(self.created.0) <= WINDOW_SECONDS.unsigned_abs() {
            return Ok(());
        }
        Err(Unproven::OutOfTime {
            label: self.label,
            made: self.created,
        })
    }
}

fn required(request: &Request<'_>, name: &'static str) -> Result<Cow<'static, str>, Unproven> {
    request.field(name).map(Cow::Owned).ok_or(Unproven::Missing(name))
}
