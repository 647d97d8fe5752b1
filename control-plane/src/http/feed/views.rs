//! What a reader may see of an instance, read from the store at a revision.

use std::sync::Arc;

use moorline_shared::api::feed::{View, ViewEntry, ViewId};
use moorline_shared::api::instances::Instance;
use moorline_shared::entry::Value;
use moorline_shared::id::GroupName;
use moorline_shared::{EntryPath, InstanceId, Principal, Revision};

use super::digests::Digests;
use super::index::{asker, may_read, sees, shown};
use crate::identity::directory::{MembershipRecord, groups_in};
use crate::identity::master::MasterKey;
use crate::instance_data::access::Asker;
use crate::instance_data::records::EntryRecord;
use crate::instances::records::InstanceRecord;
use crate::model::Record;
use crate::model::content::LongValue;
use crate::model::sealing::open;
use crate::settings::AccessControl;
use crate::store::{Key, Range, ReadError, Store, Versioned};

/// Reads views from the store.
#[derive(Clone, Debug)]
pub struct Views {
    store: Store,
    control: AccessControl,
    master: Arc<MasterKey>,
    digests: Arc<Digests>,
}

/// What can be read of a view.
#[derive(Debug)]
pub struct Readable {
    /// The view, without the entries that are damaged.
    pub view: View,
    /// What is wrong with each of those.
    pub damage: Vec<ReadError>,
}

impl Views {
    /// Views of what is in `store`, whose secrets `master` opens.
    pub fn new(store: Store, control: AccessControl, master: Arc<MasterKey>) -> Self {
        Self {
            store,
            control,
            master,
            digests: Arc::default(),
        }
    }

    /// The digests of views that were made.
    pub(super) fn digests(&self) -> &Digests {
        &self.digests
    }

    /// The view at revision `at`, empty if either instance doesn't exist or the reader sees nothing of the other.
    pub async fn read(&self, at: u64, view: ViewId) -> Result<View, ReadError> {
        let Readable { view, damage } = self.readable(at, view).await?;
        damage.into_iter().next().map_or(Ok(view), Err)
    }

    /// What can be read of the view at revision `at`, and why the rest of its entries can't.
    pub async fn readable(&self, at: u64, view: ViewId) -> Result<Readable, ReadError> {
        let revision = Revision::new(self.store.epoch(), at);
        let (mut entries, mut damage) = (Vec::new(), Vec::new());
        if let (Some(reader), Some(owner)) = (
            self.asker(at, view).await?,
            self.instance(at, view.instance).await?,
        ) {
            for (key, kept) in self.all(at, &EntryRecord::prefix(&view.instance)).await? {
                match self.entry(at, (&reader, &owner), &key, &kept).await {
                    Ok(entry) => entries.extend(entry),
                    Err(error @ ReadError::Damaged { .. }) => damage.push(error),
                    Err(error) => return Err(error),
                }
            }
        }
        let view = View {
            view,
            revision,
            entries,
        };
        Ok(Readable { view, damage })
    }

    /// The entry as the reader sees it, if it may.
    async fn entry(
        &self,
        at: u64,
        (reader, owner): (&Asker, &InstanceRecord),
        key: &Key,
        kept: &Versioned,
    ) -> Result<Option<ViewEntry>, ReadError> {
        let record: EntryRecord = decode(key, kept)?;
        if !may_read(reader, owner, &record, self.control) {
            return Ok(None);
        }
        let value = self.value(at, &record).await?;
        let entry = shown(&record, Revision::new(self.store.epoch(), kept.modified), value);
        let path = record.path;
        Ok(Some(ViewEntry { path, entry }))
    }

    /// Whether the view shows this entry at revision `at`.
    pub async fn shows(&self, at: u64, view: ViewId, path: &EntryPath) -> Result<bool, ReadError> {
        let (Some(reader), Some(owner)) = (
            self.asker(at, view).await?,
            self.instance(at, view.instance).await?,
        ) else {
            return Ok(false);
        };
        let key = EntryRecord::key(&(view.instance, path.clone()));
        let Some(kept) = self.store.get(at, &key).await? else {
            return Ok(false);
        };
        let record: EntryRecord = decode(&key, &kept)?;
        Ok(may_read(&reader, &owner, &record, self.control))
    }

    /// A view's reader as decisions take it, at revision `at`; `None` if it doesn't exist, or sees nothing there.
    async fn asker(&self, at: u64, view: ViewId) -> Result<Option<Asker>, ReadError> {
        let reader = self.instance(at, view.reader).await?;
        let Some(reader) = reader.filter(|reader| sees(reader, view.instance)) else {
            return Ok(None);
        };
        let places = MembershipRecord::prefix(&Principal::Instance(view.reader));
        let places: Vec<MembershipRecord> = decode_all(&self.all(at, &places).await?)?;
        let groups = groups_in(&reader.account, places);
        Ok(Some(asker(&reader, groups)))
    }

    /// Every instance that is in a group, with the group, at revision `at`.
    pub async fn instances_in_groups(&self, at: u64) -> Result<Vec<(InstanceId, GroupName)>, ReadError> {
        let places = self.all(at, &MembershipRecord::of_instances()).await?;
        let places: Vec<MembershipRecord> = decode_all(&places)?;
        let of_instance = |place: MembershipRecord| match place.member {
            Principal::Instance(instance) => Some((instance, place.group)),
            _ => None,
        };
        Ok(places.into_iter().filter_map(of_instance).collect())
    }

    /// An instance's record at revision `at`.
    pub async fn instance(&self, at: u64, id: InstanceId) -> Result<Option<InstanceRecord>, ReadError> {
        let key = InstanceRecord::key(&id);
        let found = self.store.get(at, &key).await?;
        found.map(|kept| decode(&key, &kept)).transpose()
    }

    /// An instance as its account sees it, at revision `at`.
    pub async fn shown_instance(&self, at: u64, id: InstanceId) -> Result<Option<Instance>, ReadError> {
        let key = InstanceRecord::key(&id);
        let Some(kept) = self.store.get(at, &key).await? else {
            return Ok(None);
        };
        let revision = Revision::new(self.store.epoch(), kept.modified);
        let record: InstanceRecord = decode(&key, &kept)?;
        Ok(Some(record.shown(Some(revision))))
    }

    /// Every instance at revision `at`, with the revision at which it last changed.
    pub async fn instances(&self, at: u64) -> Result<Vec<(InstanceRecord, Revision)>, ReadError> {
        let found = self.all(at, &InstanceRecord::prefix(&())).await?;
        let epoch = self.store.epoch();
        found
            .iter()
            .map(|(key, kept)| Ok((decode(key, kept)?, Revision::new(epoch, kept.modified))))
            .collect()
    }

    async fn value(&self, at: u64, record: &EntryRecord) -> Result<Value, ReadError> {
        let of = |content| open(&self.master, record.instance, &record.path, content);
        let Some(digest) = record.content.digest() else {
            return of(&record.content);
        };
        let key = LongValue::key(&(record.instance, record.path.clone(), digest));
        let Some(found) = self.store.get(at, &key).await? else {
            let reason = "it is gone".to_owned();
            return Err(ReadError::Damaged { key, reason });
        };
        let long = decode::<LongValue>(&key, &found)?;
        of(&record.content.clone().with(long.value))
    }

    async fn all(&self, at: u64, prefix: &str) -> Result<Vec<(Key, Versioned)>, ReadError> {
        self.store.all(at, Range::prefix(prefix)).await
    }
}

fn decode_all<T: Record>(found: &[(Key, Versioned)]) -> Result<Vec<T>, ReadError> {
    found.iter().map(|(key, kept)| decode(key, kept)).collect()
}

/// A record that can't be read is never left out: its reader would take it for removed.
fn decode<T: Record>(key: &Key, kept: &Versioned) -> Result<T, ReadError> {
    serde_json::from_slice(&kept.value).map_err(|error| ReadError::Damaged {
        key: key.clone(),
        reason: error.to_string(),
    })
}
