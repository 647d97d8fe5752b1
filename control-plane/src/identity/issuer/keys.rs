//! The keys of identity tokens: which signs, which are published, and how a new one comes in.
//!
//! A key is published from the moment on that it is made, and signs only when everybody who keeps the published keys for
//! a while has it. It is published until the last token that it signed has expired, after the next one began to sign.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use moorline_shared::{Digest, OperationId, Timestamp};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value as Json, json};

use super::model::{IdentityKeyRecord, Model, Op, Reply, Subject};
use super::token;
use crate::identity::master::{MasterKey, Purpose, UnsealError};
use crate::model::{Attempt, ExecuteError, Executor};
use crate::services;

/// For how many seconds a token is good.
pub const TOKEN_SECONDS: u32 = 900;
/// For how many seconds whoever checks tokens may keep the published keys.
pub const CACHE_SECONDS: u32 = 300;
/// How old a key is when a new one is made, in milliseconds: 30 days.
pub const ROTATE_MS: i64 = 30 * 86_400_000;
/// How long a key is published before it signs, in milliseconds: until nobody has older keys, twice over.
const PUBLISHED_BEFORE_MS: i64 = 2 * CACHE_SECONDS as i64 * 1_000;
/// How long a key is published after it last signed, in milliseconds.
const PUBLISHED_AFTER_MS: i64 = (TOKEN_SECONDS + CACHE_SECONDS) as i64 * 1_000;

/// Why no identity token can be made.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The keys can't be read or recorded.
    #[error("the keys of identity tokens can't be had")]
    Store(#[from] ExecuteError),
    /// A key doesn't open.
    #[error("the key {key} of identity tokens can't be had")]
    Sealed {
        /// Which.
        key: String,
        /// Why.
        source: UnsealError,
    },
    /// What is kept is no key.
    #[error("the key {0} of identity tokens is damaged")]
    Damaged(String),
    /// The library makes none.
    #[error("a key of identity tokens can't be made or used: is there randomness?")]
    Make,
    /// The answer to a question about keys was another one's.
    #[error("the keys of identity tokens can't be listed; this is a bug")]
    Unexpected,
}

/// Makes identity tokens in the name of a URL. Clones share the keys.
#[derive(Clone)]
pub struct Issuer(Arc<Shared>);

struct Shared {
    url: String,
    master: Arc<MasterKey>,
    keys: RwLock<Vec<Opened>>,
}

/// A key, opened.
struct Opened {
    record: IdentityKeyRecord,
    pair: EcdsaKeyPair,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Issuer({})", self.0.url)
    }
}

impl Issuer {
    /// The issuer that is known by `url`. At the first start its key is made, and later a new one if the newest is old.
    pub async fn open(
        executor: &Executor,
        master: &Arc<MasterKey>,
        url: String,
    ) -> Result<Self, IssuerError> {
        let issuer = Self(Arc::new(Shared {
            url,
            master: master.clone(),
            keys: RwLock::default(),
        }));
        let attempt = Attempt::new(
            Op::DescribeIdentityKeys {},
            services::provider("issuer"),
            operation(b"describe"),
        );
        let Reply::Keys(keys) = executor.read(&Model, attempt, None).await?.reply else {
            return Err(IssuerError::Unexpected);
        };
        issuer.adopt(keys)?;
        issuer.rotate_if_old(executor).await?;
        Ok(issuer)
    }

    /// The URL that tokens name.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// A token for `audience` that says what is known of `subject`, and when it ends. It leaves nothing behind.
    pub async fn issue(
        &self,
        executor: &Executor,
        subject: &Subject,
        audience: &str,
    ) -> Result<(String, Timestamp), IssuerError> {
        self.rotate_if_old(executor).await?;
        let now = executor.now();
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| IssuerError::Make)?;
        let id = URL_SAFE_NO_PAD.encode(random);
        let claims = token::claims(&self.0.url, subject, audience, &id, now);
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        let records: Vec<_> = keys.iter().map(|key| &key.record).collect();
        let key = signing(&records, now)
            .and_then(|at| keys.get(at))
            .ok_or(IssuerError::Make)?;
        let signed = token::signed(&key.record.id, &claims, |text| {
            let signature = key.pair.sign(&SystemRandom::new(), text);
            signature.map(|signature| signature.as_ref().to_vec()).ok()
        });
        let expires = now.plus_seconds(TOKEN_SECONDS);
        signed.map(|token| (token, expires)).ok_or(IssuerError::Make)
    }

    /// The published keys, as a JSON Web Key Set (RFC 7517).
    pub fn key_set(&self) -> Json {
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        let keys: Vec<_> = keys.iter().map(|key| web_key(&key.record)).collect();
        json!({ "keys": keys })
    }

    async fn rotate_if_old(&self, executor: &Executor) -> Result<(), IssuerError> {
        let now = executor.now().millis();
        let newest = {
            let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
            keys.last().map(|key| key.record.created_at.millis())
        };
        if newest.is_some_and(|newest| now - newest < ROTATE_MS) {
            return Ok(());
        }
        let op = self.make()?;
        let id = operation(&serde_json::to_vec(&op).map_err(|_| IssuerError::Make)?);
        let attempt = Attempt::new(op, services::provider("issuer"), id);
        match executor.execute(&Model, attempt).await?.reply {
            Reply::Keys(keys) => self.adopt(keys),
            Reply::Subject(_) => Err(IssuerError::Unexpected),
        }
    }

    fn make(&self) -> Result<Op, IssuerError> {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        let document = document.map_err(|_| IssuerError::Make)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random);
        let pair = pair.map_err(|_| IssuerError::Make)?;
        let public = pair.public_key().as_ref().to_vec();
        let key = Digest::of(&public).to_string()[..16].to_owned();
        // The key was made a moment ago and is sealed once, so that nothing more is needed to make the nonce its own.
        let sealed = self
            .0
            .master
            .seal(Purpose::IdentityKey, &bound_to(&key), b"", document.as_ref());
        Ok(Op::RotateIdentityKey {
            key,
            public_key: Bytes::from(public).into(),
            sealed: Bytes::from(sealed).into(),
        })
    }

    fn adopt(&self, records: Vec<IdentityKeyRecord>) -> Result<(), IssuerError> {
        let opened = records
            .into_iter()
            .map(|record| self.opened(record))
            .collect::<Result<_, _>>()?;
        *self.0.keys.write().unwrap_or_else(PoisonError::into_inner) = opened;
        Ok(())
    }

    fn opened(&self, record: IdentityKeyRecord) -> Result<Opened, IssuerError> {
        let bound = bound_to(&record.id);
        let document = self
            .0
            .master
            .unseal(Purpose::IdentityKey, &bound, record.sealed.bytes());
        let document = document.map_err(|source| IssuerError::Sealed {
            key: record.id.clone(),
            source,
        })?;
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &document, &SystemRandom::new());
        match pair {
            Ok(pair) => Ok(Opened { record, pair }),
            Err(_) => Err(IssuerError::Damaged(record.id)),
        }
    }
}

/// A sealed key opens under its own id only.
fn bound_to(key: &str) -> Vec<u8> {
    format!("identity-key/{key}").into_bytes()
}

fn operation(what: &[u8]) -> OperationId {
    OperationId::from(Digest::of_parts([b"issuer".as_slice(), what]))
}

/// When a key that others came before begins to sign, in milliseconds since 1970.
fn begins(key: &IdentityKeyRecord) -> i64 {
    key.created_at.millis().saturating_add(PUBLISHED_BEFORE_MS)
}

/// Which of the keys signs at `now`, the oldest first: the newest that has been published for long enough.
fn signing(keys: &[&IdentityKeyRecord], now: Timestamp) -> Option<usize> {
    let begun = |at: &usize| begins(keys[*at]) <= now.millis();
    // Before the first one nobody signed, so it begins at once.
    let first = (!keys.is_empty()).then_some(0);
    (0..keys.len()).rev().find(begun).or(first)
}

/// Whether nothing that a key signed is good any more at `now`, because a later one has signed for long.
pub(super) fn is_over(key: &IdentityKeyRecord, all: &[IdentityKeyRecord], now: Timestamp) -> bool {
    let mut later = all.iter().filter(|other| other.created_at > key.created_at);
    later.any(|other| begins(other).saturating_add(PUBLISHED_AFTER_MS) < now.millis())
}

/// A public key as RFC 7517 and RFC 7518 write it.
fn web_key(record: &IdentityKeyRecord) -> Json {
    // One byte that says that it is uncompressed, and two coordinates of 32.
    let point = record.public_key.bytes();
    let coordinate = |range| {
        point
            .get::<std::ops::Range<usize>>(range)
            .map(|bytes| URL_SAFE_NO_PAD.encode(bytes))
    };
    json!({
        "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": record.id,
        "x": coordinate(1..33), "y": coordinate(33..65),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, created_ms: i64) -> IdentityKeyRecord {
        IdentityKeyRecord {
            id: id.to_owned(),
            public_key: Bytes::new().into(),
            sealed: Bytes::new().into(),
            created_at: Timestamp::from_millis(created_ms).unwrap(),
        }
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis).unwrap()
    }

    #[test]
    fn a_new_key_is_known_before_it_signs_and_the_old_one_until_its_tokens_expired() {
        let all = [key("old", 0), key("new", ROTATE_MS)];
        let signs = |now| signing(&[&all[0], &all[1]], at(now)).map(|at| all[at].id.as_str());
        let begins = ROTATE_MS + PUBLISHED_BEFORE_MS;
        assert_eq!(
            (signs(0), signs(begins - 1), signs(begins)),
            (Some("old"), Some("old"), Some("new"))
        );
        let last = begins + PUBLISHED_AFTER_MS;
        assert!(!is_over(&all[0], &all, at(last)) && is_over(&all[0], &all, at(last + 1)));
        assert!(
            !is_over(&all[1], &all, at(10 * ROTATE_MS)),
            "there is no later one"
        );
        assert_eq!(signing(&[], at(0)), None);
    }
}
