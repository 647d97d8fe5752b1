//! What users are in their accounts, for whoever makes a caller of a token.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use moorline_shared::api::identity::UserState;
use moorline_shared::{AccountId, UserName};

use crate::identity::directory::{UserRecord, role};
use crate::model::Role;
use crate::store::Event;

/// The users who can act.
#[derive(Debug, Default)]
pub(super) struct Members(RwLock<HashMap<UserName, (AccountId, Role)>>);

impl Members {
    pub(super) fn role(&self, user: &UserName, account: &AccountId) -> Option<Role> {
        let members = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (of, role) = members.get(user)?;
        (of == account).then_some(*role)
    }

    /// Takes in what became of a user.
    pub(super) fn apply(&self, event: &Event) {
        let Some(name) = name(event) else {
            return;
        };
        let record = event
            .value
            .as_ref()
            .map(|kept| serde_json::from_slice::<UserRecord>(&kept.value));
        let mut members = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match record {
            Some(Ok(user)) if user.state == UserState::Enabled => {
                members.insert(name, (user.account, role(user.role)));
            }
            Some(Err(error)) => {
                tracing::error!(key = %event.key, %error, "a user can't be read, and can't act");
                members.remove(&name);
            }
            Some(Ok(_)) | None => {
                members.remove(&name);
            }
        }
    }

    pub(super) fn clear(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn name(event: &Event) -> Option<UserName> {
    let key = std::str::from_utf8(event.key.as_bytes()).ok()?;
    key.strip_prefix("user/")?.parse().ok()
}
