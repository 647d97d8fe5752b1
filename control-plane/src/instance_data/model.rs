//! The operations on instances' data.

use moorline_shared::access::{AccessList, Right, Rights};
use moorline_shared::api::ProblemDetails;
use moorline_shared::api::data::{Action, Change, Described, Entry, EntryGuard, History, PastChange};
use moorline_shared::entry::{Value, Visibility};
use moorline_shared::{AccountId, EntryPath, InstanceId, PathPrefix, Revision};
use serde::{Deserialize, Serialize};

use super::access::Asker;
use super::records::{ChangeRecord, EntryRecord};
use super::rules::{Data, NewValue, Purged, repeated};
use crate::model::operation::Effect;
use crate::model::{Content, Env, Intent, Kept, Operation, Page, Problem, Record, ServiceModel, Stop, View};
use crate::services::AnyOp;
use crate::store::Key;

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
    fn instance(&self) -> InstanceId {
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
}

impl BatchChange {
    /// The value that it comes with.
    fn given(&self) -> Option<&Content> {
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
    Entry(Box<Entry>),
    /// The page; its revision and cursor are the caller's to fill.
    Page {
        /// The entries.
        entries: Vec<Entry>,
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
    /// The changes.
    History(History),
    /// How far a purge came.
    Purged(More),
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

/// How much the caller is told of a denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Which right on which entry is missing.
    Everything,
    /// That it is not allowed.
    ThatItIsDenied,
    /// The answer for an unknown entry.
    Nothing,
}

/// Why an operation is not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The instance doesn't exist, or the caller may not know it.
    #[error("there is no instance {0}")]
    UnknownInstance(InstanceId),
    /// The caller says it is an instance that its host doesn't have.
    #[error("the instance {0} is not on the host that speaks for it")]
    NotOnHost(InstanceId),
    /// The entry doesn't exist.
    #[error("there is no entry {path} of instance {instance}")]
    UnknownEntry {
        /// Whose entry.
        instance: InstanceId,
        /// Which.
        path: EntryPath,
    },
    /// The caller lacks a right.
    #[error("the caller lacks the right to {right} the entry {path} of instance {instance}")]
    Denied {
        /// Whose entry.
        instance: InstanceId,
        /// Which.
        path: EntryPath,
        /// The right that is missing.
        right: Right,
        /// How much of this the caller is told.
        told: Told,
    },
    /// Only the provider's services make entries there.
    #[error("{0} can't be made: entries under meta/ are the provider's")]
    Reserved(EntryPath),
    /// The entry is not what the guard says.
    #[error("the entry {path} {}", match found { Some(r) => format!("is at revision {r}"), None => "doesn't exist".into() })]
    Guard {
        /// Which entry.
        path: EntryPath,
        /// Where it stands; absent if it doesn't exist.
        found: Option<Revision>,
    },
    /// The value is too long.
    #[error("the value has {found} bytes; the most is {most}")]
    ValueTooLong {
        /// How many bytes it has.
        found: u64,
        /// The bound.
        most: u64,
    },
    /// The instance has as many entries as it may have.
    #[error("the instance has {most} entries, the most it may have; delete some first")]
    TooManyEntries {
        /// The bound.
        most: u64,
    },
    /// The instance's values would be too many bytes together.
    #[error("the instance's values would have {found} bytes together; the most is {most}; delete some first")]
    TooManyBytes {
        /// How many it would be.
        found: u64,
        /// The bound.
        most: u64,
    },
    /// A batch is empty or too large.
    #[error("the batch has {0} changes; it must have 1 to {max}", max = MAX_BATCH)]
    BatchSize(usize),
    /// A batch changes an entry twice.
    #[error("the batch changes {0} twice; each path may stand in it once")]
    Repeated(EntryPath),
    /// A cursor is not one of ours.
    #[error("the cursor is not one that an earlier page gave")]
    Cursor,
}

/// The most changes of a batch.
pub const MAX_BATCH: usize = 1024;

impl Problem for Refusal {
    fn problem(&self) -> ProblemDetails {
        let (kind, title, status, field) = match self {
            Self::UnknownInstance(_) => ("instance-not-found", "No such instance", 404, None),
            Self::NotOnHost(_) => ("not-on-host", "The host doesn't have the instance", 403, None),
            Self::UnknownEntry { .. } => ("entry-not-found", "No such entry", 404, None),
            Self::Denied { .. } => ("access-denied", "Not allowed", 403, None),
            Self::Reserved(_) => ("path-reserved", "The path is the provider's", 403, Some("path")),
            Self::Guard { .. } => (
                "guard-failed",
                "The entry is not what was expected",
                412,
                Some("guard"),
            ),
            Self::ValueTooLong { .. } => ("value-too-long", "The value is too long", 413, Some("value")),
            Self::TooManyEntries { .. } => {
                ("too-many-entries", "The instance has too many entries", 409, None)
            }
            Self::TooManyBytes { .. } => (
                "too-many-bytes",
                "The instance's values are too long together",
                409,
                Some("value"),
            ),
            Self::BatchSize(_) | Self::Repeated(_) => (
                "invalid-batch",
                "The batch is not well formed",
                422,
                Some("changes"),
            ),
            Self::Cursor => (
                "invalid-cursor",
                "The cursor is not well formed",
                422,
                Some("cursor"),
            ),
        };
        ProblemDetails {
            kind: kind.into(),
            title: title.into(),
            status,
            detail: self.to_string(),
            field: field.map(Into::into),
            operation: None,
        }
    }

    fn shown(&self) -> ProblemDetails {
        match self {
            Self::Denied {
                told: Told::ThatItIsDenied,
                ..
            } => ProblemDetails {
                detail: "this is not allowed".into(),
                ..self.problem()
            },
            Self::Denied {
                instance,
                path,
                told: Told::Nothing,
                ..
            } => Self::UnknownEntry {
                instance: *instance,
                path: path.clone(),
            }
            .problem(),
            _ => self.problem(),
        }
    }
}

/// The rules for instances' data.
#[derive(Clone, Copy, Debug)]
pub struct Model;

type Step<T> = Result<T, Stop<Refusal>>;

/// How many entries one operation purges: well below what a transaction holds.
const PURGE_AT_ONCE: usize = 500;

impl ServiceModel for Model {
    type Op = Op;
    type Reply = Reply;
    type Refusal = Refusal;

    fn step(&self, v: &mut View<'_>, op: &Op, env: &Env) -> Step<Reply> {
        let mut data = Data::open(v, env, op.instance(), op.api())?;
        match op {
            Op::PutInstanceData { path, guard, new, .. } => {
                data.put(path, *guard, new).map(|()| Reply::Changed)
            }
            Op::AppendInstanceData {
                path, guard, content, ..
            } => data.append(path, *guard, content).map(|()| Reply::Changed),
            Op::DeleteInstanceData { path, guard, .. } => data.delete(path, *guard).map(|()| Reply::Changed),
            Op::BatchInstanceData { changes, .. } => batch(&mut data, changes),
            Op::SetEntryAccess {
                path, guard, access, ..
            } => data.set_access(path, *guard, access).map(|()| Reply::Changed),
            Op::GetInstanceData { path, .. } => get(&mut data, path),
            Op::ListInstanceData {
                prefix,
                after,
                limit,
                values,
                ..
            } => list(&mut data, prefix, after.as_ref(), *limit as usize, *values),
            Op::DescribeInstanceData { .. } => describe(&mut data),
            Op::WatchInstanceData { .. } => Ok(Reply::Watching {
                asker: data.asker().clone(),
                account: data.account().clone(),
            }),
            Op::GetInstanceDataHistory {
                instance,
                path,
                before,
                limit,
            } => {
                data.read(path)?;
                drop(data);
                history(v, env, *instance, path, before.as_deref(), *limit as usize)
            }
            Op::ExpireEntry { path, .. } => data.as_provider().expire(path).map(|()| Reply::Changed),
            Op::PurgeInstanceData { instance } => purge(v, env, *instance),
        }
    }

    fn predict(&self, _: &mut View<'_>, intent: &Intent, _: &Env) -> Step<Vec<(u64, AnyOp)>> {
        Ok(vec![(0, intent.submit.clone())])
    }
}

fn batch(data: &mut Data<'_, '_>, changes: &[BatchChange]) -> Step<Reply> {
    if changes.is_empty() || changes.len() > MAX_BATCH {
        return Err(Stop::Refused(Refusal::BatchSize(changes.len())));
    }
    if let Some(path) = repeated(changes.iter().map(|change| &change.path)) {
        return Err(Stop::Refused(Refusal::Repeated(path.clone())));
    }
    data.foresee_changes(changes.iter().map(|change| (&change.path, change.given())))?;
    for BatchChange { path, guard, action } in changes {
        match action {
            BatchAction::Put(new) => data.put(path, *guard, new)?,
            BatchAction::Append(content) => data.append(path, *guard, content)?,
            BatchAction::Delete => data.delete(path, *guard)?,
            BatchAction::SetAccess(access) => data.set_access(path, *guard, access)?,
        }
    }
    Ok(Reply::Changed)
}

fn get(data: &mut Data<'_, '_>, path: &EntryPath) -> Step<Reply> {
    let (entry, value, rights) = data.read(path)?;
    Ok(Reply::Entry(Box::new(shown(&entry, Some(value), rights))))
}

/// An entry as a caller with these rights sees it.
pub fn shown(entry: &Kept<EntryRecord>, value: Option<Value>, rights: Rights) -> Entry {
    Entry {
        path: entry.path.clone(),
        revision: entry.revision.unwrap_or_default(),
        version: entry.version,
        content_type: entry.content_type.clone(),
        length: entry.content.len(),
        value,
        origin: entry.origin,
        visibility: entry.visibility,
        expires_at: entry.expires_at,
        changed_by: entry.changed_by.clone(),
        changed_at: entry.changed_at,
        access: rights.has(Right::Administer).then(|| entry.access.clone()),
    }
}

fn list(
    data: &mut Data<'_, '_>,
    prefix: &PathPrefix,
    after: Option<&EntryPath>,
    limit: usize,
    values: Values,
) -> Step<Reply> {
    let all = data.all()?;
    let mut readable: Vec<_> = all
        .into_iter()
        .filter(|(entry, rights)| rights.has(Right::Read) && prefix.covers(&entry.path))
        .filter(|(entry, _)| after.is_none_or(|after| entry.path > *after))
        .take(limit.saturating_add(1))
        .collect();
    let more = if readable.len() > limit {
        More::Yes
    } else {
        More::No
    };
    readable.truncate(limit);
    if values == Values::Shown {
        data.foresee_values(readable.iter().map(|(entry, _)| (&entry.path, &entry.content)))?;
    }
    let mut entries = Vec::new();
    for (entry, rights) in readable {
        let value = match values {
            Values::Shown => Some(data.value(&entry.path, &entry.content)?),
            Values::LeftOut => None,
        };
        entries.push(shown(&entry, value, rights));
    }
    Ok(Reply::Page { entries, more })
}

fn describe(data: &mut Data<'_, '_>) -> Step<Reply> {
    let all = data.all()?;
    let public = all
        .into_iter()
        .filter(|(entry, _)| entry.visibility == Visibility::Public);
    let known = public.filter(|(entry, rights)| data.may_know(entry, *rights));
    Ok(Reply::Description(
        known
            .map(|(entry, rights)| Described {
                path: entry.path.clone(),
                content_type: entry.content_type.clone(),
                origin: entry.origin,
                readable: rights.has(Right::Read),
            })
            .collect(),
    ))
}

/// One row more than asked for is read: it tells the value before the oldest change of the page.
fn history(
    v: &mut View<'_>,
    env: &Env,
    instance: InstanceId,
    path: &EntryPath,
    before: Option<&str>,
    limit: usize,
) -> Step<Reply> {
    let of = (instance, path.clone());
    let after = before.map(|row| cursor(&of, row)).transpose()?;
    let rows = v.scan::<ChangeRecord>(
        &of,
        &Page {
            after,
            limit: limit + 1,
        },
    )?;
    let mut data = Data::open(v, env, instance, "GetInstanceDataHistory")?;
    data.foresee_values(rows.iter().filter_map(|row| Some((path, row.to.as_ref()?))))?;
    let mut changes = Vec::new();
    for (i, row) in rows.iter().take(limit).enumerate() {
        let from = rows.get(i + 1).and_then(|older| older.to.clone());
        let from = from.map(|content| data.value(path, &content)).transpose()?;
        let to = row
            .to
            .as_ref()
            .map(|content| data.value(path, content))
            .transpose()?;
        changes.push(past(row, from, to));
    }
    let more = rows.len() > limit;
    let next = rows
        .get(limit.wrapping_sub(1))
        .filter(|_| more)
        .map(|row| row_of(row));
    Ok(Reply::History(History { changes, next }))
}

fn past(row: &Kept<ChangeRecord>, from: Option<Value>, to: Option<Value>) -> PastChange {
    PastChange {
        revision: row.revision.unwrap_or_default(),
        operation: row.operation,
        api: row.api.clone(),
        principal: row.principal.clone(),
        at: row.at,
        from,
        to,
    }
}

/// The cursor of a change: the end of its key, which names no more than the page itself does.
fn row_of(row: &ChangeRecord) -> String {
    let key = row.own_key().to_string();
    key.rsplit('/').next().unwrap_or_default().to_owned()
}

fn cursor(of: &(InstanceId, EntryPath), row: &str) -> Step<Key> {
    let plain = row.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') && row.len() <= 128;
    let key = format!("{}{row}", ChangeRecord::prefix(of));
    Key::try_from(key)
        .ok()
        .filter(|_| plain)
        .ok_or(Stop::Refused(Refusal::Cursor))
}

/// Purges some entries and has the rest purged later.
fn purge(v: &mut View<'_>, env: &Env, instance: InstanceId) -> Step<Reply> {
    let purged = Data::open(v, env, instance, "PurgeInstanceData")?
        .as_provider()
        .purge(PURGE_AT_ONCE)?;
    if purged == Purged::Wholly {
        return Ok(Reply::Purged(More::No));
    }
    v.later(Intent {
        due: env.now,
        submit: Op::PurgeInstanceData { instance }.into(),
    });
    Ok(Reply::Purged(More::Yes))
}
