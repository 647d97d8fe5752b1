//! One thing of one instance: what there is of it, and what comes next.

use std::sync::Arc;

use moorline_shared::host::CredentialStatus;
use moorline_shared::link::Moment;

use super::{Item, Ticket};
use crate::link::{RoleGrant, SessionGrant};

/// The longest error that is kept, in characters.
const MAX_ERROR: usize = 1_024;

#[derive(Debug)]
pub(super) struct Slot {
    held: Held,
    pub(super) phase: Phase,
    failures: u32,
    error: Option<String>,
    refused: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing, until something happens.
    Resting,
    /// It is fetched from then on, when there is room.
    Due(Moment),
    /// It is being fetched.
    Fetching(Ticket),
}

#[derive(Debug)]
enum Held {
    Nothing,
    Session(Arc<SessionGrant>),
    Role(Arc<RoleGrant>),
}

impl Slot {
    /// Nothing yet; with a refusal, never anything.
    pub(super) fn new(refusal: Option<String>) -> Self {
        Self {
            held: Held::Nothing,
            phase: Phase::Resting,
            failures: 0,
            refused: refusal.is_some(),
            error: refusal,
        }
    }

    pub(super) const fn is_refused(&self) -> bool {
        self.refused
    }

    pub(super) fn session(&self) -> Option<&Arc<SessionGrant>> {
        match &self.held {
            Held::Session(session) => Some(session),
            Held::Role(_) | Held::Nothing => None,
        }
    }

    pub(super) fn role(&self) -> Option<&Arc<RoleGrant>> {
        match &self.held {
            Held::Role(role) => Some(role),
            Held::Session(_) | Held::Nothing => None,
        }
    }

    pub(super) fn hold_session(&mut self, session: SessionGrant) -> Arc<SessionGrant> {
        let session = Arc::new(session);
        self.held = Held::Session(Arc::clone(&session));
        session
    }

    pub(super) fn hold_role(&mut self, role: RoleGrant) -> Arc<RoleGrant> {
        let role = Arc::new(role);
        self.held = Held::Role(Arc::clone(&role));
        role
    }

    pub(super) fn let_go(&mut self) {
        self.held = Held::Nothing;
    }

    /// When what there is runs out.
    pub(super) fn deadline(&self) -> Option<Moment> {
        match &self.held {
            Held::Session(session) => Some(session.deadline),
            Held::Role(role) => Some(role.deadline),
            Held::Nothing => None,
        }
    }

    pub(super) fn recovered(&mut self) {
        self.phase = Phase::Resting;
        (self.failures, self.error) = (0, None);
    }

    /// There will be nothing for it.
    pub(super) fn ended(&mut self, why: &str) {
        self.error = Some(why.chars().take(MAX_ERROR).collect());
    }

    /// A fetch failed; returns how many have since the last that didn't.
    pub(super) fn failed(&mut self, error: &str) -> u32 {
        self.phase = Phase::Resting;
        self.failures = self.failures.saturating_add(1);
        self.error = Some(error.chars().take(MAX_ERROR).collect());
        self.failures
    }

    pub(super) fn status(&self, item: &Item, now: Moment) -> CredentialStatus {
        let kind = match &self.held {
            Held::Nothing => None,
            Held::Session(_) => Some("session".to_owned()),
            Held::Role(role) => Some(role.credential.kind().to_string()),
        };
        CredentialStatus {
            role: match item {
                Item::Session => None,
                Item::Role(role) => Some(role.clone()),
            },
            kind,
            expires_in_ms: self.deadline().map(|deadline| deadline.since(now)),
            error: self.error.clone(),
        }
    }
}
