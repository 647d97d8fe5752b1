//! When each instance was last touched: by a change of itself, of one of its entries or of its groups.

use std::collections::HashMap;

use moorline_shared::InstanceId;
use moorline_shared::api::feed::ViewId;

use super::index::Change;
use crate::identity::directory::MembershipRecord;
use crate::instance_data::records::EntryRecord;
use crate::instances::records::InstanceRecord;
use crate::model::Record;
use crate::model::record::fence;
use crate::store::{Key, Range, ReadError, Store};

/// The last transaction that touched each instance. With it, a host that comes back is told what it missed without
/// anybody reading the transactions in between.
#[derive(Debug, Default)]
pub struct Touched(HashMap<InstanceId, u64>);

impl Touched {
    /// Reads from the store what holds at revision `at`: when each instance's record was put, and when the fence of its
    /// entries was, which every change of an entry puts, and that of its places in groups.
    pub async fn read(store: &Store, at: u64) -> Result<Self, ReadError> {
        let mut touched = Self::default();
        touched
            .read_all(store, at, InstanceRecord::prefix(&()).as_bytes())
            .await?;
        let fences = fence(format!("{}/", EntryRecord::KIND).as_bytes());
        touched.read_all(store, at, fences.as_bytes()).await?;
        let places = fence(MembershipRecord::of_instances().as_bytes());
        touched.read_all(store, at, places.as_bytes()).await?;
        Ok(touched)
    }

    async fn read_all(&mut self, store: &Store, at: u64, prefix: &[u8]) -> Result<(), ReadError> {
        let mut pages = store.pages(at, Range::prefix(prefix));
        while let Some(page) = pages.next().await? {
            for (key, kept) in &page {
                if let Some(instance) = named(key, prefix.len()) {
                    self.at(instance, kept.modified);
                }
            }
        }
        Ok(())
    }

    /// Takes in what transaction `n` changed.
    pub fn note(&mut self, n: u64, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Instance(record, _) => self.at(record.id, n),
                Change::Entry(record, ..) => self.at(record.instance, n),
                Change::EntryGone(instance, _) | Change::Membership(_, instance, _) => self.at(*instance, n),
                // Its entries went with it, in the same transaction.
                Change::InstanceForgotten(_) => {}
            }
        }
        for change in changes {
            if let Change::InstanceForgotten(instance) = change {
                self.0.remove(instance);
            }
        }
    }

    /// The last transaction that may have changed what the view shows; 0 if there was none.
    pub fn last(&self, view: ViewId) -> u64 {
        let last = |instance| self.0.get(instance).copied().unwrap_or(0);
        last(&view.reader).max(last(&view.instance))
    }

    fn at(&mut self, instance: InstanceId, n: u64) {
        let last = self.0.entry(instance).or_default();
        *last = n.max(*last);
    }
}

/// The instance that a key names after so many bytes.
fn named(key: &Key, after: usize) -> Option<InstanceId> {
    let rest = std::str::from_utf8(key.as_bytes().get(after..)?).ok()?;
    rest.split('/').next()?.parse().ok()
}
