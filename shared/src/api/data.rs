//! Entries over HTTP: read, changed, listed, watched.

use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::access::AccessList;
use crate::entry::{ContentType, Origin, Value, Visibility};
use crate::id::{OperationId, Principal};
use crate::path::{EntryPath, PathPrefix};
use crate::revision::Revision;
use crate::ttl::Ttl;

/// An entry as its reader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Entry {
    /// Its name within the instance.
    pub path: EntryPath,
    /// When it last changed.
    pub revision: Revision,
    /// How often it was changed since it was created; 1 for a new one.
    pub version: u64,
    /// What the bytes are.
    pub content_type: ContentType,
    /// How many bytes there are.
    pub length: u64,
    /// The bytes; absent in listings that didn't ask for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// Who determined it.
    pub origin: Origin,
    /// Whether `describe` names it.
    pub visibility: Visibility,
    /// Whether it is secret: sealed wherever it is kept, and in no log and no record; absent if it isn't.
    #[serde(default, skip_serializing_if = "is_false")]
    pub secret: bool,
    /// When it stops being valid; absent for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Who changed it last.
    pub changed_by: Principal,
    /// When that was.
    pub changed_at: Timestamp,
    /// Who may do what with it; shown to those who may administer it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<AccessList>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
pub(super) const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// `PutInstanceData`: the entry's new value. What is absent stays as it is, or takes its default in a new entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PutEntry {
    /// The bytes, 256 KiB at most: text, or `{"base64": "..."}`.
    pub value: Value,
    /// What they are; guessed from a new entry's bytes if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<ContentType>,
    /// Whether `describe` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visibility: Option<Visibility>,
    /// Whether it is secret from now on. An entry that is secret stays so unless this is false, which needs the right
    /// to administer; what it held before it was made secret stays in its history and in operation records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<bool>,
    /// For how many seconds from now it is valid; absent for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
    /// Who may do what with it; needs the right to administer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<AccessList>,
}

impl PutEntry {
    /// A new value and nothing else.
    pub fn value(value: Value) -> Self {
        Self {
            value,
            content_type: None,
            visibility: None,
            secret: None,
            ttl: None,
            access: None,
        }
    }

    /// A new value that is secret, and nothing else. The value is wiped when its last holder lets it go.
    pub fn secret(value: Value) -> Self {
        Self {
            secret: Some(true),
            ..Self::value(value.wiped())
        }
    }
}

/// `AppendInstanceData`: bytes for the end of the entry's value. Nothing is appended to a secret entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AppendEntry {
    /// The bytes.
    pub value: Value,
}

/// `SetEntryAccess`: who may do what from now on. An empty list brings the default back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SetAccess {
    /// The clauses, 64 at most.
    pub access: AccessList,
}

/// What an entry must be for a change to be made. Absent: whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum EntryGuard {
    /// There is no such entry.
    Absent,
    /// It last changed at this revision.
    Revision(Revision),
}

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Change {
    /// Which entry.
    pub path: EntryPath,
    /// What it must be before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<EntryGuard>,
    /// What is done.
    pub action: Action,
}

/// What is done with an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Action {
    /// It gets another value.
    Put(PutEntry),
    /// Its value grows at the end.
    Append(AppendEntry),
    /// It is removed.
    Delete {},
    /// Its access changes.
    SetAccess(SetAccess),
}

/// `BatchInstanceData`: all or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Batch {
    /// The changes in their order, 1 to 1,024; each path once. Together they must fit into one transaction of the
    /// store: 4 MiB of keys and values, old and new, and 4,096 of what is read and written for them.
    pub changes: Vec<Change>,
}

/// The answer to a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Changed {
    /// When it was committed: the revision of every entry it touched.
    pub revision: Revision,
    /// Its operation record.
    pub operation: OperationId,
}

/// `ListInstanceData`: a page of what the caller may read, in byte order of the paths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EntryPage {
    /// The state the page shows; the next page shows the same one.
    pub revision: Revision,
    /// The entries.
    pub entries: Vec<Entry>,
    /// What to ask for as `cursor` to get the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `DescribeInstanceData`: the published listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Description {
    /// The state it shows.
    pub revision: Revision,
    /// The public entries of the instance, without values unless the caller may read them.
    pub entries: Vec<Described>,
}

/// An entry as `describe` names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Described {
    /// Its path.
    pub path: EntryPath,
    /// What the bytes are.
    pub content_type: ContentType,
    /// Who determined it.
    pub origin: Origin,
    /// Whether it is secret; absent if it isn't.
    #[serde(default, skip_serializing_if = "is_false")]
    pub secret: bool,
    /// Whether the caller may read it.
    pub readable: bool,
}

/// `GetInstanceDataHistory`: the changes of an entry, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct History {
    /// The changes.
    pub changes: Vec<PastChange>,
    /// What to ask for as `cursor` to get older ones; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A change that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PastChange {
    /// When it was committed.
    pub revision: Revision,
    /// The operation that made it.
    pub operation: OperationId,
    /// What the operation was, such as `PutInstanceData`.
    pub api: String,
    /// Who asked for it.
    pub principal: Principal,
    /// The time of it.
    pub at: Timestamp,
    /// The value before; absent if there was no entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    /// The value after; absent if the entry was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Value>,
}

/// A line of the watch stream, and the whole of a long poll's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum WatchEvent {
    /// One committed transaction, as far as it touched what is watched and may be read.
    Changes {
        /// When it was committed.
        revision: Revision,
        /// What it did.
        changes: Vec<EntryChange>,
    },
    /// Nothing happened up to here: the point to resume from.
    Bookmark {
        /// The present revision.
        revision: Revision,
    },
    /// Changes were lost to the watcher: list again, then watch from the listing's revision.
    Resync {
        /// The oldest revision from which a watch can begin.
        revision: Revision,
    },
}

/// What became of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EntryChange {
    /// Which entry.
    pub path: EntryPath,
    /// What it is now; absent if it is gone or may no longer be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<Entry>,
}

/// The query of `ListInstanceData`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
pub struct ListQuery {
    /// Only this path and what is below it.
    #[serde(default)]
    pub prefix: PathPrefix,
    /// The page to show: `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The most entries of a page, 1 to 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// The state to show, if it is still kept; absent for the present one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// Whether the values come too.
    #[serde(default)]
    pub values: bool,
}

/// The query of `WatchInstanceData`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
pub struct WatchQuery {
    /// Only this path and what is below it.
    #[serde(default)]
    pub prefix: PathPrefix,
    /// Only changes after this revision; absent for from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Revision>,
    /// Long poll: answer with the first change, or with a bookmark after so many seconds, 1 to 300. Absent: a stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_seconds: Option<u32>,
}
