//! Keeps the sessions and the key ring in step with the store.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{FollowError, Sessions};
use crate::identity::keys::Ring;
use crate::identity::records::{SessionRecord, TokenKeyRecord};
use crate::model::Record;
use crate::store::{Batch, Event, Range, ReadError, Store, Watch, WatchError};

/// Where the sessions are in the order of the store's transactions. Whoever has the lock takes the next one.
#[derive(Debug)]
pub struct Follower {
    store: Store,
    watch: Mutex<Option<Watch>>,
}

impl Follower {
    /// Nothing is read yet.
    pub(in crate::identity) fn new(store: Store) -> Self {
        Self {
            store,
            watch: Mutex::new(None),
        }
    }

    /// Takes in what the next transaction changed, waiting for it if there is none yet. Cancel-safe: what was taken from
    /// the watch is taken in before anything else is waited for.
    pub(super) async fn next(&self, sessions: &Sessions, ring: &Ring) -> Result<(), FollowError> {
        let mut watch = self.watch.lock().await;
        let Some(following) = watch.as_mut() else {
            *watch = Some(self.begin(sessions, ring).await?);
            return Ok(());
        };
        match following.next().await {
            Ok(batch) => apply(&batch, sessions, ring)?,
            // It is all read anew, as at the start.
            Err(WatchError::Compacted { .. }) => *watch = None,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn begin(&self, sessions: &Sessions, ring: &Ring) -> Result<Watch, FollowError> {
        let at = self.store.head().await?;
        let watch = self.store.watch(at).await?;
        sessions.clear();
        self.each("session/", at, |event| apply_session(event, sessions))
            .await?;
        self.each("user/", at, |event| sessions.members.apply(event))
            .await?;
        ring.clear();
        self.each("token-key/", at, |event| apply_key(event, ring))
            .await?;
        ring.renew()?;
        sessions.reached(at);
        Ok(watch)
    }

    async fn each(&self, prefix: &str, at: u64, take: impl Fn(&Event)) -> Result<(), ReadError> {
        let mut range = Range::prefix(prefix);
        loop {
            let page = self.store.range(at, &range).await?;
            for (key, kept) in page.entries {
                take(&Event {
                    key,
                    value: Some(kept),
                });
            }
            match page.next {
                Some(next) => range = range.resume_at(next),
                None => return Ok(()),
            }
        }
    }
}

fn apply(batch: &Batch, sessions: &Sessions, ring: &Ring) -> Result<(), FollowError> {
    let mut keys_changed = false;
    for event in batch.events.iter() {
        match event.key.as_bytes() {
            key if key.starts_with(b"session/") => apply_session(event, sessions),
            key if key.starts_with(b"user/") => sessions.members.apply(event),
            key if key.starts_with(b"token-key/") => {
                apply_key(event, ring);
                keys_changed = true;
            }
            _ => {}
        }
    }
    if keys_changed {
        ring.renew()?;
    }
    sessions.reached(batch.n);
    Ok(())
}

fn apply_session(event: &Event, sessions: &Sessions) {
    match &event.value {
        Some(kept) => match serde_json::from_slice::<SessionRecord>(&kept.value) {
            Ok(record) => sessions.put(&record),
            // What can't be read gives nobody any right.
            Err(error) => {
                tracing::error!(key = %event.key, %error, "a session can't be read, and is over; a newer release wrote it or it is damaged");
                forget(event, sessions);
            }
        },
        None => forget(event, sessions),
    }
}

fn forget(event: &Event, sessions: &Sessions) {
    let key = std::str::from_utf8(event.key.as_bytes()).ok();
    let id = key.and_then(|key| key.rsplit_once('/')?.1.parse().ok());
    if let Some(id) = id {
        sessions.remove(&id);
    }
}

fn apply_key(event: &Event, ring: &Ring) {
    let Some(kept) = &event.value else {
        return;
    };
    match serde_json::from_slice::<TokenKeyRecord>(&kept.value) {
        Ok(record) => ring.note(record),
        Err(error) => {
            tracing::error!(kind = TokenKeyRecord::KIND, key = %event.key, %error, "a key can't be read");
        }
    }
}

/// Keeps the sessions and the ring in step until cancelled.
///
/// # Errors
/// [`FollowError`] if the store ended or can't be read: without it nothing that is revoked would be known here.
pub async fn run(sessions: Arc<Sessions>, ring: Ring, cancel: CancellationToken) -> Result<(), FollowError> {
    loop {
        tokio::select! {
            // Both arms are cancel-safe: see Follower::next.
            () = cancel.cancelled() => return Ok(()),
            followed = sessions.follower.next(&sessions, &ring) => followed?,
        }
    }
}
