//! Why an operation on instances' data is not done, and how much of it the caller is told.

use std::borrow::Cow;

use moorline_shared::access::Right;
use moorline_shared::api::data::EntryGuard;
use moorline_shared::api::{ON_BEHALF_OF, ProblemDetails};
use moorline_shared::entry::Origin;
use moorline_shared::{EntryPath, InstanceId, Revision};

use crate::instances::hearing::Unheard;
use crate::model::Problem;

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

/// Who can give a right that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Giver {
    /// Whoever administers the entry.
    Administrator,
    /// Nobody: the entry is the provider's.
    Nobody,
}

impl Giver {
    /// Who can give `right` on an entry that was determined by `origin`.
    pub const fn of(origin: Origin, right: Right) -> Self {
        match (origin, right) {
            (Origin::Provider, Right::Update | Right::Append | Right::Delete) => Self::Nobody,
            _ => Self::Administrator,
        }
    }
}

/// Why an operation is not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The instance doesn't exist, or the caller may not know it.
    #[error("there is no instance {0}; list the instances to see which there are")]
    UnknownInstance(InstanceId),
    /// The caller is an instance that isn't heard.
    #[error(transparent)]
    Unheard(#[from] Unheard),
    /// The entry doesn't exist.
    #[error("there is no entry {path} of instance {instance}; list its entries to see which there are")]
    UnknownEntry {
        /// Whose entry.
        instance: InstanceId,
        /// Which.
        path: EntryPath,
    },
    /// The caller lacks a right.
    #[error(
        "the caller lacks the right to {right} the entry {path} of instance {instance}; {}",
        match giver {
            Giver::Administrator => "who administers the entry can give it",
            Giver::Nobody => "what the provider determined is changed by the provider only",
        }
    )]
    Denied {
        /// Whose entry.
        instance: InstanceId,
        /// Which.
        path: EntryPath,
        /// The right that is missing.
        right: Right,
        /// Who could give it.
        giver: Giver,
        /// How much of this the caller is told.
        told: Told,
    },
    /// Only the provider's services make entries there.
    #[error("{0} can't be made: entries under meta/ are the provider's; choose another path")]
    Reserved(EntryPath),
    /// The instance is terminated: its entries are only kept for a while.
    #[error("instance {0} is terminated, so nothing is written to its entries any more; they can be deleted")]
    Terminated(InstanceId),
    /// The entry is not what the guard says.
    #[error("the entry {path} {}, and {}; look at it again and decide anew", stands(*found), guarded(*wanted))]
    Guard {
        /// Which entry.
        path: EntryPath,
        /// Where it stands; absent if it doesn't exist.
        found: Option<Revision>,
        /// Where it was to stand.
        wanted: EntryGuard,
    },
    /// The value is too long.
    #[error("the value has {found} bytes; the most is {most}; split it over several entries")]
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
    /// Nothing is added to what is sealed.
    #[error("the entry {0} is secret, and nothing is appended to a secret; put its whole new value")]
    AppendToSecret(EntryPath),
    /// A value is sealed that is for no secret, or the other way round.
    #[error("the value for the entry {0} is not sealed as secrets are; this is a bug of the control plane")]
    NotSealed(EntryPath),
    /// A batch is empty or too large.
    #[error("the batch has {0} changes; it must have 1 to {max}; split a larger one", max = MAX_BATCH)]
    BatchSize(usize),
    /// A batch changes an entry twice.
    #[error("the batch changes {0} twice; each path may stand in it once")]
    Repeated(EntryPath),
    /// A cursor is not one of ours.
    #[error("the cursor is not one that an earlier page gave; begin again without a cursor")]
    Cursor,
    /// One change of a batch can't be made, and so none is.
    #[error("{refusal}")]
    InBatch {
        /// Which change, counted from 0.
        at: usize,
        /// Why.
        refusal: Box<Refusal>,
    },
}

impl Refusal {
    /// The same, about a change of a batch.
    #[must_use]
    pub fn in_batch(self, at: usize) -> Self {
        let refusal = Box::new(self);
        Self::InBatch { at, refusal }
    }
}

fn stands(found: Option<Revision>) -> String {
    found.map_or_else(
        || "doesn't exist".to_owned(),
        |revision| format!("is at revision {revision}"),
    )
}

fn guarded(wanted: EntryGuard) -> String {
    match wanted {
        EntryGuard::Absent => "the request says that it must not exist".to_owned(),
        EntryGuard::Revision(revision) => format!("the request says that it must be at {revision}"),
    }
}

/// The field of a batch that a field of one of its changes is.
fn field_in_batch(at: usize, field: &str) -> String {
    match field {
        "path" | "guard" => format!("changes[{at}].{field}"),
        "value" => format!("changes[{at}].action"),
        _ => format!("changes[{at}]"),
    }
}

/// The most changes of a batch.
pub const MAX_BATCH: usize = 1024;

impl Refusal {
    /// What it is in a word that stays the same, in a few words, and as an HTTP status.
    pub(crate) fn terms(&self) -> (&'static str, &'static str, u16) {
        match self {
            Self::UnknownInstance(_) => ("instance-not-found", "No such instance", 404),
            Self::Unheard(unheard) => unheard.terms(),
            Self::UnknownEntry { .. } => ("entry-not-found", "No such entry", 404),
            Self::Denied { .. } => ("access-denied", "Not allowed", 403),
            Self::Reserved(_) => ("path-reserved", "The path is the provider's", 403),
            Self::Terminated(_) => ("wrong-state", "The instance's state doesn't allow it", 409),
            Self::Guard { .. } => ("guard-failed", "The entry is not what was expected", 412),
            Self::ValueTooLong { .. } => ("value-too-long", "The value is too long", 413),
            Self::TooManyEntries { .. } => ("too-many-entries", "The instance has too many entries", 409),
            Self::TooManyBytes { .. } => (
                "too-many-bytes",
                "The instance's values are too long together",
                409,
            ),
            Self::AppendToSecret(_) => ("entry-secret", "The entry is secret", 409),
            Self::NotSealed(_) => ("internal", "Something failed here", 500),
            Self::BatchSize(_) | Self::Repeated(_) => ("invalid-batch", "The batch is not well formed", 422),
            Self::Cursor => ("invalid-cursor", "The cursor is not well formed", 422),
            Self::InBatch { refusal, .. } => refusal.terms(),
        }
    }

    /// The field of the request that is at fault.
    pub(crate) fn field(&self) -> Cow<'static, str> {
        let field = match self {
            Self::UnknownInstance(_) | Self::Terminated(_) => "instance",
            Self::Unheard(_) => ON_BEHALF_OF,
            Self::UnknownEntry { .. }
            | Self::Denied { .. }
            | Self::Reserved(_)
            | Self::TooManyEntries { .. }
            | Self::AppendToSecret(_) => "path",
            Self::Guard { .. } => "guard",
            Self::ValueTooLong { .. } | Self::TooManyBytes { .. } | Self::NotSealed(_) => "value",
            Self::BatchSize(_) | Self::Repeated(_) => "changes",
            Self::Cursor => "cursor",
            Self::InBatch { at, refusal } => return field_in_batch(*at, &refusal.field()).into(),
        };
        field.into()
    }
}

impl Problem for Refusal {
    fn problem(&self) -> ProblemDetails {
        let (kind, title, status) = self.terms();
        ProblemDetails::new(kind, title, status, self.to_string()).at(Some(self.field()))
    }

    fn shown(&self) -> ProblemDetails {
        match self {
            Self::Denied {
                told: Told::ThatItIsDenied,
                ..
            } => ProblemDetails {
                detail: "this is not allowed; who administers the entry can allow it".into(),
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
            // Denied or said to be unknown, it is the same entry that is at fault.
            Self::InBatch { refusal, .. } => refusal.shown().at(Some(self.field())),
            _ => self.problem(),
        }
    }
}
