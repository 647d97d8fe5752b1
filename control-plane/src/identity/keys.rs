//! The key ring of the deployment: what the store holds of it, opened with the master key, for whoever makes or checks
//! tokens.
//!
//! [`adopt`] makes the first key at the first start. A [`Ring`] is a handle on what is in force; the ring behind it is
//! exchanged as a whole when a record of a key changes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use moorline_shared::OperationId;
use moorline_shared::entry::Value;
use zeroize::Zeroizing;

use super::master::{MasterKey, Purpose, UnsealError};
use super::model::Model;
use super::operations::{Op, Reply};
use super::records::{KeyState, TokenKeyRecord};
use super::token::{KeyId, KeyRing, RingError, RootKey, Stage};
use crate::model::{Attempt, ExecuteError, Executor};
use crate::services;

/// A handle on the key ring in force.
#[derive(Clone)]
pub struct Ring(Arc<Shared>);

struct Shared {
    master: Arc<MasterKey>,
    known: Mutex<BTreeMap<KeyId, TokenKeyRecord>>,
    /// `None` before there is any key.
    current: RwLock<Option<KeyRing>>,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ring(hidden)")
    }
}

/// Why there is no key ring.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The kernel gives no randomness.
    #[error("a key can't be made: the kernel gives no random bytes")]
    Random(#[source] getrandom::Error),
    /// A key doesn't open.
    #[error("the key {key} of tokens can't be had")]
    Sealed {
        /// Which.
        key: KeyId,
        /// Why.
        source: UnsealError,
    },
    /// The bytes are not a key's.
    #[error("the key {0} of tokens is damaged: it is not 32 bytes long")]
    Length(KeyId),
    /// The keys make no ring.
    #[error("the keys of tokens make no ring")]
    Ring(#[from] RingError),
    /// A key could not be recorded.
    #[error("a key of tokens could not be recorded")]
    Record(#[from] ExecuteError),
    /// The answer to a question about keys was another one's.
    #[error("the keys of tokens can't be listed; this is a bug")]
    Unexpected,
}

impl Ring {
    /// A handle on no ring yet.
    pub fn new(master: Arc<MasterKey>) -> Self {
        Self(Arc::new(Shared {
            master,
            known: Mutex::default(),
            current: RwLock::default(),
        }))
    }

    /// What `work` makes of the ring in force, which stays in force as long as that takes; `None` only before the first
    /// key was made.
    pub fn with<R>(&self, work: impl FnOnce(&KeyRing) -> R) -> Option<R> {
        let current = self.0.current.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(work)
    }

    /// Takes note of a key; [`Self::renew`] makes it count.
    pub(super) fn note(&self, record: TokenKeyRecord) {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(record.id, record);
    }

    pub(super) fn clear(&self) {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.clear();
    }

    /// Makes the ring of all keys that are known, and puts it in force. While none seals, there is none.
    pub(super) fn renew(&self) -> Result<(), KeyError> {
        let known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keys = Vec::new();
        for record in known.values() {
            keys.extend(self.open(record)?);
        }
        drop(known);
        let sealing = keys.iter().any(|(_, stage, _)| *stage == Stage::Primary);
        let ring = sealing.then(|| KeyRing::new(keys)).transpose()?;
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = ring;
        Ok(())
    }

    fn open(&self, record: &TokenKeyRecord) -> Result<Option<(KeyId, Stage, RootKey)>, KeyError> {
        let KeyState::InRing { stage, sealed } = &record.state else {
            return Ok(None);
        };
        let key = record.id;
        let opened = self
            .0
            .master
            .unseal(Purpose::TokenKey, &bound_to(key), sealed.bytes());
        let opened = opened.map_err(|source| KeyError::Sealed { key, source })?;
        let bytes: [u8; 32] = opened[..].try_into().map_err(|_| KeyError::Length(key))?;
        Ok(Some((key, *stage, RootKey::new(bytes))))
    }
}

/// A sealed key opens under its own id only.
fn bound_to(key: KeyId) -> Vec<u8> {
    format!("token-key/{key:08x}").into_bytes()
}

/// A new key under the master key, as it is taken in by `StageTokenKey`.
///
/// # Errors
/// [`KeyError::Random`] if the kernel gives no randomness.
pub fn make(master: &MasterKey, key: KeyId) -> Result<Value, KeyError> {
    let mut random = Zeroizing::new([0; 64]);
    getrandom::fill(&mut random[..]).map_err(KeyError::Random)?;
    let (bytes, salt) = random.split_at(32);
    let sealed = master.seal(Purpose::TokenKey, &bound_to(key), salt, bytes);
    Ok(bytes::Bytes::from(sealed).into())
}

/// Sees to it that a key seals: the newest staged one if there is one, otherwise one that is made now.
///
/// # Errors
/// [`KeyError`] if it can't be made or recorded.
pub async fn adopt(executor: &Executor, master: &MasterKey) -> Result<(), KeyError> {
    let Reply::Keys(keys) = run(executor, Op::DescribeTokenKeys {}).await? else {
        return Err(KeyError::Unexpected);
    };
    let at = |stage| {
        let found = keys.iter().rfind(|key| key.stage() == Some(stage));
        found.map(|key| key.id)
    };
    if at(Stage::Primary).is_some() {
        return Ok(());
    }
    let key = if let Some(staged) = at(Stage::Staged) {
        staged
    } else {
        let key = next_id(&keys);
        let sealed = make(master, key)?;
        run(executor, Op::StageTokenKey { key, sealed }).await?;
        key
    };
    run(executor, Op::PromoteTokenKey { key }).await?;
    Ok(())
}

/// The id of the next key.
pub fn next_id(keys: &[TokenKeyRecord]) -> KeyId {
    keys.last().map_or(1, |last| last.id + 1)
}

async fn run(executor: &Executor, op: Op) -> Result<Reply, ExecuteError> {
    let caller = services::provider("control");
    let key = uuid::Uuid::new_v4().to_string();
    let key = key.parse().expect("a UUID is 36 printable characters");
    let id = OperationId::derive(&caller.principal, &key);
    let is_read = matches!(op, Op::DescribeTokenKeys {});
    let attempt = Attempt::new(op, caller, id);
    let done = if is_read {
        executor.read(&Model, attempt, None).await?
    } else {
        executor.execute(&Model, attempt).await?
    };
    Ok(done.reply)
}
