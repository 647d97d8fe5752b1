//! What the store keeps of hosts' certificates and of the tokens that they are enrolled with.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
pub use moorline_shared::api::hosts::HostStanding as Standing;
use moorline_shared::enrolment::serial_text;
use moorline_shared::{Digest, HostId, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::identity::authority::issue::HostWords;
use crate::model::record::{Record, key};
use crate::store::Key;

/// The public key of a host: P-256, as `SubjectPublicKeyInfo` in DER; base64 as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostKey(Box<[u8]>);

/// How long a point of P-256 is that is not compressed, in bytes. A key ends with it.
const POINT: usize = 65;

impl HostKey {
    /// The key with these bytes, which are such a key's.
    pub(super) fn new(der: Vec<u8>) -> Self {
        Self(der.into())
    }

    /// The key as certificates have it.
    pub fn der(&self) -> &[u8] {
        &self.0
    }

    /// The point alone, as signatures are verified with it.
    pub fn point(&self) -> &[u8] {
        &self.0[self.0.len().saturating_sub(POINT)..]
    }
}

impl Serialize for HostKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for HostKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        let bytes = STANDARD
            .decode(text.as_bytes())
            .map_err(serde::de::Error::custom)?;
        Ok(Self::new(bytes))
    }
}

/// What a certificate was made of. It is made of the same again for who didn't hear the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Its number: 16 bytes.
    pub serial: Digits,
    /// How many the host had before, and 1.
    pub generation: u64,
    /// The host's key.
    pub public_key: HostKey,
    /// When it was made.
    pub from: Timestamp,
    /// When it ends.
    pub until: Timestamp,
}

impl Certificate {
    /// What it says of `host`.
    pub fn words<'a>(&'a self, host: &'a HostId) -> HostWords<'a> {
        HostWords {
            host,
            serial: self.serial.0,
            generation: self.generation,
            public_key: self.public_key.der(),
            from: self.from,
            until: self.until,
        }
    }
}

/// The number of a certificate: hexadecimal as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digits(pub [u8; 16]);

impl std::fmt::Display for Digits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&serial_text(&self.0))
    }
}

impl Serialize for Digits {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digits {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        let number = u128::from_str_radix(&text, 16).map_err(serde::de::Error::custom)?;
        Ok(Self(number.to_be_bytes()))
    }
}

/// By which certificate a host is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostIdentity {
    /// Which host.
    pub host: HostId,
    /// Whether it is known by it.
    pub standing: Standing,
    /// From when on it has this standing.
    pub since: Timestamp,
    /// The present certificate.
    pub certificate: Certificate,
    /// The generation of the first certificate of this enrolment. Those of earlier ones count no more.
    pub first: u64,
    /// The one before, in the same enrolment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Certificate>,
    /// When it was enrolled last.
    pub enrolled_at: Timestamp,
}

impl HostIdentity {
    /// The same host with another standing from `now` on.
    #[must_use]
    pub fn stands(self, standing: Standing, now: Timestamp) -> Self {
        Self {
            standing,
            since: now,
            ..self
        }
    }
}

impl Record for HostIdentity {
    const KIND: &'static str = "host-identity";
    const FENCED: bool = false;
    const SCOPE_SEGMENTS: usize = 0;
    type Id = HostId;
    type Collection = ();

    fn key(id: &HostId) -> Key {
        key(format!("host-identity/{id}").as_bytes())
    }

    fn own_key(&self) -> Key {
        Self::key(&self.host)
    }

    fn prefix((): &()) -> String {
        "host-identity/".to_owned()
    }
}

/// An enrolment token. Its secret is nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentTokenRecord {
    /// The digest of its secret.
    pub digest: Digest,
    /// Whom it enrols.
    pub host: HostId,
    /// When it is no longer good.
    pub expires_at: Timestamp,
    /// The key that it was used with, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<HostKey>,
}

impl Record for EnrolmentTokenRecord {
    const KIND: &'static str = "enrolment-token";
    const FENCED: bool = false;
    const SCOPE_SEGMENTS: usize = 0;
    type Id = Digest;
    type Collection = ();

    fn key(id: &Digest) -> Key {
        key(format!("enrolment-token/{id}").as_bytes())
    }

    fn own_key(&self) -> Key {
        Self::key(&self.digest)
    }

    fn prefix((): &()) -> String {
        "enrolment-token/".to_owned()
    }
}
