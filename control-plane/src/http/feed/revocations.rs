//! What was revoked and concerns hosts, in the order in which it was.
//!
//! It is what the store has of it: a row goes there when the last token that it is about has expired, and with that here.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use moorline_shared::api::feed::{Revocation, Revoked};
use moorline_shared::{InstanceId, Principal, Revision};

use crate::identity::records::{self, RevocationRecord};
use crate::model::Record;
use crate::store::{Event, Key, Range, ReadError, Store};

/// All that is revoked and may still be held on a host.
#[derive(Debug, Default)]
pub struct Revocations {
    /// By the transaction that put them, each with the key of its row.
    rows: BTreeMap<u64, Vec<(Key, Notice)>>,
    /// The transaction that last put each row.
    put: HashMap<Key, u64>,
}

/// A revocation, and whom to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Who may hold a token of it.
    pub concerns: Concerns,
    /// What hosts are told.
    pub revocation: Revocation,
}

/// Who may hold a token of what was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concerns {
    /// One instance.
    Instance(InstanceId),
    /// Any.
    All,
}

impl Revocations {
    /// Reads what the store has at revision `at`.
    ///
    /// # Errors
    /// [`ReadError`] if it can't be read.
    pub async fn read(store: &Store, at: u64) -> Result<Self, ReadError> {
        let mut revocations = Self::default();
        let mut pages = store.pages(at, Range::prefix(RevocationRecord::prefix(&())));
        while let Some(page) = pages.next().await? {
            for (key, kept) in page {
                let value = Some(kept);
                revocations.note(store.epoch(), &Event { key, value });
            }
        }
        Ok(revocations)
    }

    /// Takes in what became of a row, if the event is of one; answers with what hosts are to be told of it.
    ///
    /// A row that can't be read is told to nobody. What it revoked is refused all the same: the control plane goes by the
    /// session's own record, which ended in the same transaction, and judges all that hosts pass on.
    pub fn note(&mut self, epoch: u64, event: &Event) -> Option<Notice> {
        if !event
            .key
            .as_bytes()
            .starts_with(RevocationRecord::prefix(&()).as_bytes())
        {
            return None;
        }
        self.forget(&event.key);
        let kept = event.value.as_ref()?;
        let record: RevocationRecord = serde_json::from_slice(&kept.value)
            .inspect_err(|error| tracing::error!(key = %event.key, %error, "what was revoked can't be read, and hosts aren't told of it"))
            .ok()?;
        let notice = notice(Revision::new(epoch, kept.modified), &record)?;
        self.put.insert(event.key.clone(), kept.modified);
        let together = self.rows.entry(kept.modified).or_default();
        together.push((event.key.clone(), notice.clone()));
        Some(notice)
    }

    fn forget(&mut self, row: &Key) {
        let Some(n) = self.put.remove(row) else {
            return;
        };
        let together = self.rows.entry(n).or_default();
        together.retain(|(key, _)| key != row);
        if together.is_empty() {
            self.rows.remove(&n);
        }
    }

    /// What was revoked after transaction `n`, in order.
    pub fn after(&self, n: u64) -> impl Iterator<Item = &Notice> {
        let later = (Bound::Excluded(n), Bound::Unbounded);
        self.rows
            .range(later)
            .flat_map(|(_, together)| together)
            .map(|(_, notice)| notice)
    }
}

/// What hosts are told; nothing of what only the control plane is shown.
fn notice(sequence: Revision, record: &RevocationRecord) -> Option<Notice> {
    let (concerns, revoked) = match &record.revoked {
        records::Revoked::Session {
            principal: Principal::Instance(instance),
            session,
        } => {
            let (instance, id) = (*instance, session.to_string());
            (Concerns::Instance(instance), Revoked::Session { instance, id })
        }
        records::Revoked::Key(id) => (Concerns::All, Revoked::Key { id: *id }),
        records::Revoked::Session { .. } | records::Revoked::Principal(_) => return None,
    };
    let revocation = Revocation {
        sequence,
        revoked,
        not_before: record.not_before,
        until: record.until,
    };
    Some(Notice { concerns, revocation })
}
