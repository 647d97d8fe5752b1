//! The keys, and what is done with them.

use std::collections::BTreeMap;
use std::fmt;

use hmac::{Hmac, Mac as _};
use moorline_shared::Timestamp;
use moorline_shared::secret::SecretKey;
use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::bundle::{Bundle, Grant, Kind, SessionId, TokenId};
use super::layout::Parts;
use super::text::{Opening, Token};
use super::{MAX_AHEAD_MS, OpenError, layout};

const VERSION: u8 = 1;
/// HKDF and HMAC with SHA-256, AES-256-GCM.
const SUITE: u8 = 1;

const HEADER: usize = 8;
const NONCE: usize = 24;
const COMMIT: usize = 16;
const TAG: usize = 16;
/// What stands before the encrypted bundle.
const BEFORE: usize = HEADER + NONCE + COMMIT;

/// What the keys of kinds are derived under, so that the same root key could serve something else too.
const LABEL: &[u8] = b"moorline token v1";
/// In the place of a kind: the key that nonces are made with.
const FOR_NONCES: u8 = 0;
/// In the place of a kind: the key that the keys of signed requests are made with.
const FOR_SIGNATURES: u8 = 0xff;

/// The id of a key in the ring.
pub type KeyId = u32;

/// 32 secret bytes that all keys of one generation are derived from. They are wiped when it is dropped, and can't be
/// printed.
#[derive(Clone)]
pub struct RootKey(Zeroizing<[u8; 32]>);

impl RootKey {
    /// The key with these bytes, which must come from the kernel's random source.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKey(hidden)")
    }
}

/// How far a key is in its life. A destroyed one is not in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It opens, and seals as soon as every process knows it.
    Staged,
    /// It seals, and opens.
    Primary,
    /// It only opens, until everything that it has sealed has expired.
    Retiring,
}

/// Why keys make no ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Nothing could be sealed, or it would be left open by which key.
    #[error("a key ring has one primary key, not {0}")]
    Primaries(usize),
    /// One id means two keys.
    #[error("key {0} is in the ring twice")]
    Twice(KeyId),
}

/// All keys that open tokens, by their ids, and the one that seals them.
pub struct KeyRing {
    keys: BTreeMap<KeyId, Keys>,
    primary: KeyId,
}

/// HMAC of the hash's own package: of texts as short as these it makes twice as many as ring's.
type Mac = Hmac<Sha256>;

/// What is derived from one root key, with the work of the first block of each HMAC done.
struct Keys {
    kinds: [Mac; Kind::ALL.len()],
    nonces: Mac,
    signatures: Mac,
}

impl Keys {
    fn derive(root: &RootKey) -> Self {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, LABEL).extract(&root.0[..]);
        let key = |what: u8| {
            let info = [LABEL, &[what]];
            let mut key = Zeroizing::new([0; 32]);
            root.expand(&info, hkdf::HKDF_SHA256)
                .and_then(|derived| derived.fill(&mut key[..]))
                .expect("32 bytes are within what HKDF gives");
            Mac::new_from_slice(&key[..]).expect("HMAC takes a key of any length")
        };
        Self {
            kinds: Kind::ALL.map(|kind| key(kind as u8)),
            nonces: key(FOR_NONCES),
            signatures: key(FOR_SIGNATURES),
        }
    }

    fn of(&self, kind: Kind) -> &Mac {
        &self.kinds[usize::from(kind as u8) - 1]
    }
}

impl KeyRing {
    /// A ring of keys, of which exactly one is [`Stage::Primary`].
    pub fn new(keys: impl IntoIterator<Item = (KeyId, Stage, RootKey)>) -> Result<Self, RingError> {
        let mut ring = BTreeMap::new();
        let mut primaries = Vec::new();
        for (id, stage, root) in keys {
            if stage == Stage::Primary {
                primaries.push(id);
            }
            if ring.insert(id, Keys::derive(&root)).is_some() {
                return Err(RingError::Twice(id));
            }
        }
        let [primary] = primaries[..] else {
            return Err(RingError::Primaries(primaries.len()));
        };
        Ok(Self { keys: ring, primary })
    }

    /// Makes a token of a bundle.
    ///
    /// `random` are 32 bytes of the kernel's random source, fresh for each call. Should they repeat, as in two copies of
    /// one machine, tokens of different content still have different nonces.
    pub fn seal(&self, bundle: &Bundle, random: &[u8; 32]) -> Token {
        let keys = &self.keys[&self.primary];
        let mut bytes = Vec::with_capacity(256);
        bytes.extend([VERSION, SUITE, bundle.kind as u8, 0]);
        bytes.extend(self.primary.to_be_bytes());
        bytes.resize(BEFORE, 0);
        layout::write(bundle, &mut bytes);
        let nonce = mac(&keys.nonces, &[random, &bytes]);
        bytes[HEADER..HEADER + NONCE].copy_from_slice(&nonce[..NONCE]);
        let Derived { encryption, commit } = Derived::new(keys.of(bundle.kind), &bytes[..HEADER + NONCE]);
        bytes[HEADER + NONCE..BEFORE].copy_from_slice(&commit[..COMMIT]);
        let (before, content) = bytes.split_at_mut(BEFORE);
        let tag = aes_gcm(&encryption)
            .seal_in_place_separate_tag(zero_nonce(), Aad::from(before), content)
            .expect("a bundle is shorter than what AES-GCM takes");
        bytes.extend(tag.as_ref());
        Token::encode(bundle.kind, &bytes)
    }

    /// Takes a token apart, if it is genuine and its time is `now`, up to where its session is known and its names are
    /// not: whoever looks the session up needn't read them for a token that is no good. Whether the session stands is not
    /// known here.
    ///
    /// Anything may be given: nothing is done with more than [`super::MAX_CHARS`] characters.
    ///
    /// # Errors
    /// [`OpenError`] says why it is not taken.
    pub fn unseal<'m>(
        &self,
        text: &str,
        now: Timestamp,
        memory: &'m mut Opening,
    ) -> Result<Unsealed<'m>, OpenError> {
        let (kind, bytes) = memory.decode(text)?;
        if bytes.len() < BEFORE + TAG {
            return Err(OpenError::NotAToken);
        }
        let (before, content) = bytes.split_at_mut(BEFORE);
        let (key, keys) = self.keys_for(before, kind)?;
        let Derived { encryption, commit } = Derived::new(keys.of(kind), &before[..HEADER + NONCE]);
        if commit[..COMMIT].ct_ne(&before[HEADER + NONCE..]).into() {
            return Err(OpenError::Forged);
        }
        let content = aes_gcm(&encryption)
            .open_in_place(zero_nonce(), Aad::from(&*before), content)
            .map_err(|_| OpenError::Forged)?;
        let parts = layout::read(content, kind).map_err(OpenError::Layout)?;
        in_time(&parts, now)?;
        Ok(Unsealed { key, parts })
    }

    /// The key that seals.
    pub const fn primary(&self) -> KeyId {
        self.primary
    }

    /// The key for signatures that goes with the token `token`, which `sealed_by` sealed: nobody keeps it, for it is
    /// made of these two again. `None` if that key is no longer in the ring.
    pub fn signing_key(&self, token: &TokenId, sealed_by: KeyId) -> Option<SecretKey> {
        let key = mac(&self.keys.get(&sealed_by)?.signatures, &[token.bytes()]);
        Some(key.into())
    }

    fn keys_for(&self, header: &[u8], kind: Kind) -> Result<(KeyId, &Keys), OpenError> {
        let (start, id) = header[..HEADER].split_at(4);
        if start != [VERSION, SUITE, kind as u8, 0] {
            return Err(OpenError::Header);
        }
        let id = id.try_into().map(KeyId::from_be_bytes).expect("it is 4 bytes");
        let keys = self.keys.get(&id).ok_or(OpenError::UnknownKey(id))?;
        Ok((id, keys))
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.keys.keys().collect();
        let primary = &self.primary;
        f.debug_struct("KeyRing")
            .field("ids", &ids)
            .field("primary", primary)
            .finish()
    }
}

/// A genuine token of the time at which it was unsealed.
pub struct Unsealed<'m> {
    key: KeyId,
    parts: Parts<'m>,
}

impl Unsealed<'_> {
    /// The key that sealed it.
    pub const fn key(&self) -> KeyId {
        self.key
    }

    /// What it is good for.
    pub const fn kind(&self) -> Kind {
        self.parts.kind
    }

    /// The session that it falls with, and the grant that it belongs to.
    pub const fn hangs_on(&self) -> (SessionId, Grant) {
        (self.parts.session, self.parts.grant)
    }

    /// All that it says.
    ///
    /// # Errors
    /// [`OpenError::Layout`] if this version doesn't understand it.
    pub fn bundle(&self) -> Result<Bundle, OpenError> {
        self.parts.bundle().map_err(OpenError::Layout)
    }
}

impl fmt::Debug for Unsealed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsealed")
            .field("key", &self.key)
            .field("token", &self.parts.token)
            .finish_non_exhaustive()
    }
}

/// What is made of a key and a token's header and nonce, for this token alone.
struct Derived {
    encryption: Zeroizing<[u8; 32]>,
    commit: [u8; 32],
}

impl Derived {
    /// `public` is the header and the nonce.
    fn new(kind: &Mac, public: &[u8]) -> Self {
        let mut begun = kind.clone();
        begun.update(public);
        let end = |last: u8| {
            let mut mac = begun.clone();
            mac.update(&[last]);
            mac.finalize().into_bytes().into()
        };
        Self {
            encryption: Zeroizing::new(end(1)),
            commit: end(2),
        }
    }
}

fn aes_gcm(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&aead::AES_256_GCM, key).expect("it takes 32 bytes"))
}

/// Each key encrypts one token, so that its nonce needn't differ.
fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn mac(key: &Mac, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = key.clone();
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// There is no leeway at the end of a token's time, and little before it: clocks of servers are a few seconds apart.
fn in_time(parts: &Parts<'_>, now: Timestamp) -> Result<(), OpenError> {
    if now >= parts.expires {
        return Err(OpenError::Expired(parts.expires));
    }
    if parts.issued.millis().saturating_sub(now.millis()) > MAX_AHEAD_MS {
        return Err(OpenError::Early(parts.issued));
    }
    Ok(())
}
