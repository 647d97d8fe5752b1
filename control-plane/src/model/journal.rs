//! Operation records: what was asked, by whom, and what came of it.

use std::collections::BTreeSet;

use moorline_shared::api::ProblemDetails;
use moorline_shared::{Digest, InstanceId, OperationId, Timestamp};
use serde::{Deserialize, Serialize};

use super::content::Content;
use super::operation::{Caller, RefusalRecords};
use super::record::{Record, key, newest_first};
use crate::services::AnyOp;
use crate::store::Key;

/// The record of an operation, in the same transaction as what the operation did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OperationRecord {
    /// Its id.
    pub id: OperationId,
    /// What was asked, long values by their digest.
    pub asked: AnyOp,
    /// Who asked.
    pub caller: Caller,
    /// When.
    pub at: Timestamp,
    /// The settings it was judged by.
    pub settings: Digest,
    /// How it ended.
    pub outcome: Outcome,
    /// What it changed, in the order of the keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<Changed>,
    /// The contents that were computed from long values, by name, for when the values are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub derived: Vec<Content>,
    /// The outbox row that it was submitted for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumes: Option<String>,
    /// How many such requests of the same caller were refused since the last such record, and left none.
    #[serde(default, skip_serializing_if = "none")]
    pub unrecorded: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
const fn none(count: &u64) -> bool {
    *count == 0
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done, and this was the answer.
    Done(serde_json::Value),
    /// The rules said no. Nothing was changed.
    Refused {
        /// The whole truth.
        problem: Box<ProblemDetails>,
        /// What the caller was told, where that is less.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shown: Option<Box<ProblemDetails>>,
    },
    /// It was allowed and could not be carried out. Nothing was changed.
    Failed {
        /// Why.
        problem: Box<ProblemDetails>,
    },
}

/// A key that an operation changed. After it, the key's revision is the operation's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The key.
    pub key: String,
    /// The `n` at which it had last changed before; absent if it was not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// What happened to it.
    pub to: ChangedTo,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangedTo {
    /// It has a new value.
    Put,
    /// It is gone.
    Deleted,
}

impl Record for OperationRecord {
    const KIND: &'static str = "operation";
    const FENCED: bool = false;
    const SCOPE_SEGMENTS: usize = 0;
    type Id = OperationId;
    type Collection = ();

    fn key(id: &OperationId) -> Key {
        key(format!("operation/{}", id.digest()).as_bytes())
    }

    fn own_key(&self) -> Key {
        Self::key(&self.id)
    }

    fn prefix((): &()) -> String {
        "operation/".to_owned()
    }
}

impl OperationRecord {
    /// The row by which the record is found when it is no longer kept, if it is of a refusal that is kept for a while.
    pub(super) fn passing_refusal(&self) -> Option<Key> {
        let refused = matches!(self.outcome, Outcome::Refused { .. });
        (refused && self.asked.refusal_records() == RefusalRecords::Some).then(|| {
            let at = u64::try_from(self.at.millis()).unwrap_or(0);
            key(format!("{}{at:016x}-{}", refused_read_prefix(), self.id.digest()).as_bytes())
        })
    }

    /// The rows by which the record is found in the order of time: among all, and among those of each instance.
    pub fn timeline(&self) -> Vec<TimelineRow> {
        let instances: BTreeSet<InstanceId> = self.asked.instances().into_iter().collect();
        let scopes = std::iter::once(None).chain(instances.into_iter().map(Some));
        scopes
            .map(|about| TimelineRow {
                about,
                at: self.at,
                operation: self.id,
            })
            .collect()
    }
}

/// Where an operation stands in the order of time; the rows of a scope are scanned with the newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineRow {
    /// The instance among whose operations the row stands; absent among all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<InstanceId>,
    /// When.
    pub at: Timestamp,
    /// The operation.
    pub operation: OperationId,
}

impl TimelineRow {
    /// The end of the row's key: what a page gives as the cursor of the next.
    pub fn cursor(&self) -> String {
        format!("{}-{}", newest_first(self.at.millis()), self.operation.digest())
    }
}

impl Record for TimelineRow {
    const KIND: &'static str = "timeline";
    const FENCED: bool = false;
    const SCOPE_SEGMENTS: usize = 1;
    type Id = Self;
    type Collection = Option<InstanceId>;

    fn key(id: &Self) -> Key {
        key(format!("{}{}", timeline_prefix(id.about), id.cursor()).as_bytes())
    }

    fn own_key(&self) -> Key {
        Self::key(self)
    }

    fn prefix(of: &Option<InstanceId>) -> String {
        timeline_prefix(*of)
    }
}

/// What the rows of refusals that are kept for a while begin with; they are in the order of time, and hold the record's
/// rows of the timeline.
pub(super) const fn refused_read_prefix() -> &'static str {
    "refused-read/"
}

/// What the timeline's rows begin with: of all operations, or of those about an instance.
pub fn timeline_prefix(instance: Option<InstanceId>) -> String {
    instance.map_or_else(
        || "timeline/all/".to_owned(),
        |instance| format!("timeline/{instance}/"),
    )
}
