//! What can be asked about instances' data, and what is answered.

use moorline_shared::access::AccessList;
use moorline_shared::api::data::{Action, Change, Described, Entry, EntryGuard, PastChange};
use moorline_shared::{AccountId, EntryPath, InstanceId, PathPrefix};
use serde::{Deserialize, Serialize};

use super::access::Asker;
use super::rules::NewValue;
use crate::model::operation::Effect;
use crate::model::sealing::Sealing;
use crate::model::{Content, Operation};
use crate::services::AnyOp;

/// The operations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "api", content = "parameters")]
pub enum Op {
    /// Gives an entry another value, or makes it.
    PutInstanceData {
        /// Whose entry.
        instance: InstanceId,
        /// Which.
        path: EntryPath,
        /// What it must be before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        guard: Option<EntryGuard>,
        /// What it becomes.
        new: NewValue,
    },
    /// Adds to the end of an entry's value.
    AppendInstanceData {
        /// Whose entry.
        instance: InstanceId,
        /// Which.
        path: EntryPath,
        /// What it must be before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        guard: Option<EntryGuard>,
        /// What is added.
        content: Content,
    },
    /// Removes an entry.
    DeleteInstanceData {
        /// Whose entry.
        instance: InstanceId,
        /// Which.
        path: EntryPath,
        /// What it must be before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        guard: Option<EntryGuard>,
    },
    /// Several changes, all or none.
    BatchInstanceData {
        /// Whose entries.
        instance: InstanceId,
        /// The changes in their order.
        changes: Vec<BatchChange>,
    },
    /// Says who may do what with an entry.
    SetEntryAccess {
        /// Whose entry.
        instance: InstanceId,
        /// Which.
        path: EntryPath,
        /// What it must be before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        guard: Option<EntryGuard>,
        /// The clauses.
        access: AccessList,
    },
    /// Shows an entry.
    GetInstanceData {
        /// Whose entry.
        instance: InstanceId,
        /// Which.
        path: EntryPath,
    },
    /// Shows a page of the entries that the caller may read.
    ListInstanceData {
        /// Whose entries.
        instance: InstanceId,
        /// Which of them.
        prefix: PathPrefix,
        /// Only paths after this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<EntryPath>,
        /// The most entries.
        limit: u32,
        /// Whether values come too.
        values: Values,
    },
    /// Shows the published listing.
    DescribeInstanceData {
        /// Of which instance.
        instance: InstanceId,
    },
    /// Begins to show what changes; what is shown is decided by the same rights as reading.
    WatchInstanceData {
        /// Whose entries.
        instance: InstanceId,
        /// Which of them.
        prefix: PathPrefix,
    },
    /// Shows the changes of an entry.
    GetInstanceDataHistory {
        /// Whose entry.
        instance: InstanceId,
        /// Which.
        path: EntryPath,
        /// Only changes before the one whose row this is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<String>,
        /// The most changes.
        limit: u32,
    },
    /// Removes an entry whose time has come.
    ExpireEntry {
        /// Whose entry.
        instance: InstanceId,
        /// Which.
        path: EntryPath,
    },
    /// Removes the changes of entries that are older than those that are kept.
    TrimEntryHistory {
        /// Whose entries.
        instance: InstanceId,
        /// Which.
        paths: Vec<EntryPath>,
    },
    /// Removes the data of a terminated instance, some at a time.
    PurgeInstanceData {
        /// Whose data.
        instance: InstanceId,
    },
}

/// Whether a listing carries values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Values {
    /// It does.
    Shown,
    /// It doesn't.
    LeftOut,
}

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchChange {
    /// Which entry.
    pub path: EntryPath,
    /// What it must be before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<EntryGuard>,
    /// What is done.
    pub action: BatchAction,
}

/// What a batch does with an entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchAction {
    /// It gets another value.
    Put(NewValue),
    /// Its value grows.
    Append(Content),
    /// It is removed.
    Delete,
    /// Its access changes.
    SetAccess(AccessList),
}

impl From<Change> for BatchChange {
    fn from(change: Change) -> Self {
        let action = match change.action {
            Action::Put(put) => BatchAction::Put(put.into()),
            Action::Append(append) => BatchAction::Append(append.value.into()),
            Action::Delete {} => BatchAction::Delete,
            Action::SetAccess(set) => BatchAction::SetAccess(set.access),
        };
        Self {
            path: change.path,
            guard: change.guard,
            action,
        }
    }
}

impl Op {
    /// The instance whose data it is about.
    pub(super) fn instance(&self) -> InstanceId {
        match self {
            Self::PutInstanceData { instance, .. }
            | Self::AppendInstanceData { instance, .. }
            | Self::DeleteInstanceData { instance, .. }
            | Self::BatchInstanceData { instance, .. }
            | Self::SetEntryAccess { instance, .. }
            | Self::GetInstanceData { instance, .. }
            | Self::ListInstanceData { instance, .. }
            | Self::DescribeInstanceData { instance }
            | Self::WatchInstanceData { instance, .. }
            | Self::GetInstanceDataHistory { instance, .. }
            | Self::ExpireEntry { instance, .. }
            | Self::TrimEntryHistory { instance, .. }
            | Self::PurgeInstanceData { instance } => *instance,
        }
    }
}

impl Operation for Op {
    fn api(&self) -> &'static str {
        match self {
            Self::PutInstanceData { .. } => "PutInstanceData",
            Self::AppendInstanceData { .. } => "AppendInstanceData",
            Self::DeleteInstanceData { .. } => "DeleteInstanceData",
            Self::BatchInstanceData { .. } => "BatchInstanceData",
            Self::SetEntryAccess { .. } => "SetEntryAccess",
            Self::GetInstanceData { .. } => "GetInstanceData",
            Self::ListInstanceData { .. } => "ListInstanceData",
            Self::DescribeInstanceData { .. } => "DescribeInstanceData",
            Self::WatchInstanceData { .. } => "WatchInstanceData",
            Self::GetInstanceDataHistory { .. } => "GetInstanceDataHistory",
            Self::ExpireEntry { .. } => "ExpireEntry",
            Self::TrimEntryHistory { .. } => "TrimEntryHistory",
            Self::PurgeInstanceData { .. } => "PurgeInstanceData",
        }
    }

    fn effect(&self) -> Effect {
        match self {
            Self::GetInstanceData { .. }
            | Self::ListInstanceData { .. }
            | Self::DescribeInstanceData { .. }
            | Self::WatchInstanceData { .. }
            | Self::GetInstanceDataHistory { .. } => Effect::Read,
            _ => Effect::Change,
        }
    }

    fn instances(&self) -> Vec<InstanceId> {
        vec![self.instance()]
    }

    fn contents(&mut self) -> Vec<&mut Content> {
        match self {
            Self::PutInstanceData { new, .. } => vec![&mut new.content],
            Self::AppendInstanceData { content, .. } => vec![content],
            Self::BatchInstanceData { changes, .. } => {
                changes.iter_mut().filter_map(BatchChange::content).collect()
            }
            _ => Vec::new(),
        }
    }

    fn seal(&mut self, sealing: &mut Sealing<'_, '_>) {
        match self {
            Self::PutInstanceData {
                instance, path, new, ..
            } => sealing.value(*instance, path, new.secret, &mut new.content),
            Self::AppendInstanceData {
                instance,
                path,
                content,
                ..
            } => sealing.value(*instance, path, None, content),
            Self::BatchInstanceData { instance, changes } => {
                for change in changes {
                    change.seal(*instance, sealing);
                }
            }
            _ => {}
        }
    }
}

impl BatchChange {
    fn seal(&mut self, instance: InstanceId, sealing: &mut Sealing<'_, '_>) {
        match &mut self.action {
            BatchAction::Put(new) => sealing.value(instance, &self.path, new.secret, &mut new.content),
            BatchAction::Append(content) => sealing.value(instance, &self.path, None, content),
            BatchAction::Delete | BatchAction::SetAccess(_) => {}
        }
    }

    /// The value that it comes with.
    pub(super) fn given(&self) -> Option<&Content> {
        match &self.action {
            BatchAction::Put(new) => Some(&new.content),
            BatchAction::Append(content) => Some(content),
            BatchAction::Delete | BatchAction::SetAccess(_) => None,
        }
    }

    fn content(&mut self) -> Option<&mut Content> {
        match &mut self.action {
            BatchAction::Put(new) => Some(&mut new.content),
            BatchAction::Append(content) => Some(content),
            BatchAction::Delete | BatchAction::SetAccess(_) => None,
        }
    }
}

impl From<Op> for AnyOp {
    fn from(op: Op) -> Self {
        Self::InstanceData(op)
    }
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The change was made.
    Changed,
    /// The entry.
    Entry(Box<Shown>),
    /// The page; its revision and cursor are the caller's to fill.
    Page {
        /// The entries.
        entries: Vec<Shown>,
        /// Whether there are more.
        more: More,
    },
    /// The published listing.
    Description(Vec<Described>),
    /// Who watches, and the account that the watched instance belongs to.
    Watching {
        /// Who watches.
        asker: Asker,
        /// Whose the instance is.
        account: AccountId,
    },
    /// The changes, the newest first.
    History {
        /// The page of them.
        changes: Vec<Past>,
        /// Where the next page begins; absent at the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    },
    /// Some was removed; whether more is to be.
    Removed(More),
}

/// An entry for a caller who may read it; its value goes into it where the caller is answered, for the rules can't open
/// one that is sealed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shown {
    /// The entry without its value.
    pub entry: Entry,
    /// The value, unless it was to be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
}

/// A change that was made, likewise.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Past {
    /// The change without values.
    pub change: PastChange,
    /// The value before; absent if there was no entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Content>,
    /// The value after; absent if the entry was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Content>,
}

/// Whether there is more than was shown or done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum More {
    /// There is.
    Yes,
    /// There isn't.
    No,
}
