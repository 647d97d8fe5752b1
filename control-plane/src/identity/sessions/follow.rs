//! What the sessions and the key ring are made of: they are kept in step together, since a token needs both.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{FollowError, Sessions};
use crate::identity::keys::Ring;
use crate::identity::records::{SessionRecord, TokenKeyRecord};
use crate::model::Record;
use crate::store::Event;
use crate::store::follow::Image;

/// The sessions, and the ring that opens their tokens.
pub(super) struct Known<'a> {
    pub(super) sessions: &'a Sessions,
    pub(super) ring: &'a Ring,
}

impl Image for Known<'_> {
    type Error = FollowError;
    const PREFIXES: &'static [&'static str] = &["session/", "user/", "token-key/"];

    fn clear(&self) {
        self.sessions.clear();
        self.ring.clear();
    }

    fn take<'e>(&self, events: impl Iterator<Item = &'e Event>) -> Result<(), FollowError> {
        let mut keys_changed = false;
        for event in events {
            match event.key.as_bytes() {
                key if key.starts_with(b"session/") => apply_session(event, self.sessions),
                key if key.starts_with(b"user/") => self.sessions.members.apply(event),
                _ => {
                    apply_key(event, self.ring);
                    keys_changed = true;
                }
            }
        }
        if keys_changed {
            self.ring.renew()?;
        }
        Ok(())
    }
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
    let known = Known {
        sessions: &sessions,
        ring: &ring,
    };
    sessions.follower.run(&known, cancel).await
}
