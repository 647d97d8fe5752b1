//! What is held, as the tasks of one thread share it.

use std::cell::{Ref, RefCell};
use std::rc::Rc;
use std::time::Duration;

use moorline_shared::id::RoleName;
use moorline_shared::link::Moment;
use moorline_shared::link::body::{self, HelloAck};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{Held, InstanceToken, Lookup, Refusal, RoleCredential};
use crate::platform::now;

/// Credentials that can be waited for. They belong to one thread, so reading takes no lock.
#[derive(Debug, Default)]
pub struct Credentials {
    held: RefCell<Held>,
    changed: Notify,
}

impl Credentials {
    /// What is held. The guard must not be kept across an await.
    pub fn read(&self) -> Ref<'_, Held> {
        self.held.borrow()
    }

    /// The instance's token, if it is good now.
    pub fn session(&self) -> Option<Rc<InstanceToken>> {
        self.read().session(now()).map(Rc::clone)
    }

    /// The credentials of a role, if they are good now.
    pub fn role(&self, name: &RoleName) -> Option<Rc<RoleCredential>> {
        self.read().role(name, now()).map(Rc::clone)
    }

    /// The credentials of a role, waited for as long as they are on their way, and for `patience` at most. Dropping the
    /// future is harmless.
    pub async fn role_soon(&self, name: &RoleName, patience: Duration) -> Option<Rc<RoleCredential>> {
        let settled = self.until(|held| match held.look(name, now()) {
            Lookup::Given(credential) => Some(Some(credential)),
            Lookup::Unknown => Some(None),
            Lookup::Awaited => None,
        });
        timeout(patience, settled).await.unwrap_or(None)
    }

    /// Waits until everything is there that is on its way, and for `patience` at most. Dropping the future is harmless.
    pub async fn complete(&self, patience: Duration) {
        let complete = self.until(|held| (!held.is_incomplete(now())).then_some(()));
        // Whoever asks then gets what there is.
        let _ = timeout(patience, complete).await;
    }

    /// Waits until `look` finds something in what is held. Dropping the future is harmless.
    pub async fn until<T>(&self, mut look: impl FnMut(&Held) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before the look, so that a change in between is not missed.
            changed.as_mut().enable();
            if let Some(found) = look(&self.held.borrow()) {
                return found;
            }
            changed.await;
        }
    }

    /// See [`Held::begin`].
    pub fn begin(&self, ack: &HelloAck) {
        self.held.borrow_mut().begin(ack);
        self.changed.notify_waiters();
    }

    /// See [`Held::told`].
    pub fn told(&self) {
        self.held.borrow_mut().told();
        self.changed.notify_waiters();
    }

    /// See [`Held::take_session`].
    pub fn take_session(&self, said: body::Session, now: Moment) {
        self.held.borrow_mut().take_session(said, now);
        self.changed.notify_waiters();
    }

    /// See [`Held::take_session_back`].
    pub fn take_session_back(&self) {
        self.held.borrow_mut().take_session_back();
        self.changed.notify_waiters();
    }

    /// See [`Held::take_credential`].
    pub fn take_credential(&self, said: &body::Credential, now: Moment) -> Result<(), Refusal> {
        self.held.borrow_mut().take_credential(said, now)?;
        self.changed.notify_waiters();
        Ok(())
    }
}
