//! What programs in guests asked to be written, and what they were told: to be found in the master copy.

use std::collections::{BTreeMap, BTreeSet};

use moorline_shared::api::data::Changed;
use moorline_shared::id::{IdempotencyKey, Principal};
use moorline_shared::{EntryPath, InstanceId, OperationId, Revision};

/// All writes of guests.
#[derive(Debug, Default)]
pub struct Ledger {
    /// What was asked.
    pub asked: BTreeMap<IdempotencyKey, Asked>,
    /// What is made, as programs were told.
    pub made: BTreeMap<IdempotencyKey, Changed>,
    /// What is not made, as programs were told.
    pub refused: BTreeSet<IdempotencyKey>,
}

/// A write that a program asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Who asked.
    pub by: InstanceId,
    /// Whose entry.
    pub of: InstanceId,
    /// Which.
    pub path: EntryPath,
    /// What is in its value, and in no other.
    pub mark: String,
    /// Whether it goes behind what is there.
    pub appends: bool,
}

impl Ledger {
    /// The operation that a key stands for.
    pub fn operation(&self, key: &IdempotencyKey) -> Option<OperationId> {
        let asked = self.asked.get(key)?;
        Some(OperationId::derive(&Principal::Instance(asked.by), key))
    }

    /// What was made after revision `n` is no more: an older state was restored.
    pub fn restored(&mut self, to: Revision) {
        self.made.retain(|_, changed| changed.revision.n <= to.n);
        // What was refused after that may be asked again, in another state.
        self.refused.clear();
    }
}
