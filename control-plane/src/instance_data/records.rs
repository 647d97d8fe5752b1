//! What the store keeps of instances' data.

use moorline_shared::access::AccessList;
use moorline_shared::entry::{ContentType, Origin, Visibility};
use moorline_shared::{EntryPath, InstanceId, OperationId, Principal, Timestamp};
use serde::{Deserialize, Serialize};

use crate::model::Content;
use crate::model::content::Secrecy;
use crate::model::record::{Record, key, newest_first};
use crate::store::Key;

/// An entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EntryRecord {
    /// Whose it is.
    pub instance: InstanceId,
    /// Its name.
    pub path: EntryPath,
    /// Its value.
    pub content: Content,
    /// What the bytes are.
    pub content_type: ContentType,
    /// Who determined it.
    pub origin: Origin,
    /// Whether `describe` names it.
    pub visibility: Visibility,
    /// When it stops being valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Who may do what with it.
    #[serde(default, skip_serializing_if = "AccessList::is_default")]
    pub access: AccessList,
    /// Who changed it last.
    pub changed_by: Principal,
    /// When.
    pub changed_at: Timestamp,
}

impl EntryRecord {
    /// Whether it is valid at `now`; an entry that isn't is treated as absent until it is swept.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|at| now < at)
    }

    /// Whether it is secret: its value is sealed.
    pub fn is_secret(&self) -> bool {
        self.content.secrecy() == Secrecy::Secret
    }
}

impl Record for EntryRecord {
    const KIND: &'static str = "entry";
    const FENCED: bool = true;
    const SCOPE_SEGMENTS: usize = 1;
    type Id = (InstanceId, EntryPath);
    type Collection = InstanceId;

    fn key((instance, path): &Self::Id) -> Key {
        key(format!("entry/{instance}/{path}").as_bytes())
    }

    fn own_key(&self) -> Key {
        key(format!("entry/{}/{}", self.instance, self.path).as_bytes())
    }

    fn prefix(of: &InstanceId) -> String {
        format!("entry/{of}/")
    }
}

/// What an instance's entries take together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Whose entries.
    pub instance: InstanceId,
    /// How many there are.
    pub entries: u64,
    /// How many bytes their values have.
    pub bytes: u64,
}

impl Record for Usage {
    const KIND: &'static str = "usage";
    const FENCED: bool = false;
    const SCOPE_SEGMENTS: usize = 0;
    type Id = InstanceId;
    type Collection = ();

    fn key(id: &InstanceId) -> Key {
        key(format!("usage/{id}").as_bytes())
    }

    fn own_key(&self) -> Key {
        Self::key(&self.instance)
    }

    fn prefix((): &()) -> String {
        "usage/".to_owned()
    }
}

/// A change of an entry, for its history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChangeRecord {
    /// Whose entry.
    pub instance: InstanceId,
    /// Which entry.
    pub path: EntryPath,
    /// The operation that made the change.
    pub operation: OperationId,
    /// What the operation was.
    pub api: String,
    /// Who asked for it.
    pub principal: Principal,
    /// When.
    pub at: Timestamp,
    /// The value after; absent if the entry was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Content>,
    /// The name of a long value that was added to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<Content>,
    /// What the entry's access was, if it was removed: its past is for whoever could read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastAccess>,
}

/// What decided who could read an entry that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastAccess {
    /// Who determined it.
    pub origin: Origin,
    /// Who could do what with it.
    #[serde(default, skip_serializing_if = "AccessList::is_default")]
    pub access: AccessList,
}

impl From<&EntryRecord> for LastAccess {
    fn from(entry: &EntryRecord) -> Self {
        Self {
            origin: entry.origin,
            access: entry.access.clone(),
        }
    }
}

/// Which changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// Those of an entry.
    OfEntry(InstanceId, EntryPath),
    /// Those of all entries of an instance, present or past.
    OfInstance(InstanceId),
}

impl Record for ChangeRecord {
    const KIND: &'static str = "change";
    const FENCED: bool = false;
    const SCOPE_SEGMENTS: usize = 1;
    type Id = (InstanceId, EntryPath, Timestamp, OperationId);
    type Collection = Changes;

    /// No path has two slashes in a row, so the changes of one entry lie together, the newest first.
    fn key((instance, path, at, operation): &Self::Id) -> Key {
        let (at, operation) = (newest_first(at.millis()), operation.digest());
        key(format!("change/{instance}/{path}//{at}-{operation}").as_bytes())
    }

    fn own_key(&self) -> Key {
        Self::key(&(self.instance, self.path.clone(), self.at, self.operation))
    }

    fn prefix(of: &Changes) -> String {
        match of {
            Changes::OfEntry(instance, path) => format!("change/{instance}/{path}//"),
            Changes::OfInstance(instance) => format!("change/{instance}/"),
        }
    }
}
