//! Why an operation on instances' data is not done, and how much of it the caller is told.

use moorline_shared::access::Right;
use moorline_shared::api::data::EntryGuard;
use moorline_shared::api::{ON_BEHALF_OF, ProblemDetails};
use moorline_shared::entry::Origin;
use moorline_shared::{EntryPath, InstanceId, Revision};

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
    /// The caller says it is an instance that its host doesn't have.
    #[error("the instance {0} is not on the host that speaks for it, or is terminated")]
    NotOnHost(InstanceId),
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
fn field_in_batch(at: usize, field: Option<&str>) -> String {
    match field {
        Some(field @ ("path" | "guard")) => format!("changes[{at}].{field}"),
        Some("value") => format!("changes[{at}].action"),
        _ => format!("changes[{at}]"),
    }
}

/// The most changes of a batch.
pub const MAX_BATCH: usize = 1024;

impl Problem for Refusal {
    fn problem(&self) -> ProblemDetails {
        let (kind, title, status, field) = match self {
            Self::UnknownInstance(_) => ("instance-not-found", "No such instance", 404, Some("instance")),
            Self::NotOnHost(_) => (
                "not-on-host",
                "The host doesn't have the instance",
                403,
                Some(ON_BEHALF_OF),
            ),
            Self::UnknownEntry { .. } => ("entry-not-found", "No such entry", 404, Some("path")),
            Self::Denied { .. } => ("access-denied", "Not allowed", 403, Some("path")),
            Self::Reserved(_) => ("path-reserved", "The path is the provider's", 403, Some("path")),
            Self::Terminated(_) => (
                "wrong-state",
                "The instance's state doesn't allow it",
                409,
                Some("instance"),
            ),
            Self::Guard { .. } => (
                "guard-failed",
                "The entry is not what was expected",
                412,
                Some("guard"),
            ),
            Self::ValueTooLong { .. } => ("value-too-long", "The value is too long", 413, Some("value")),
            Self::TooManyEntries { .. } => (
                "too-many-entries",
                "The instance has too many entries",
                409,
                Some("path"),
            ),
            Self::TooManyBytes { .. } => (
                "too-many-bytes",
                "The instance's values are too long together",
                409,
                Some("value"),
            ),
            Self::AppendToSecret(_) => ("entry-secret", "The entry is secret", 409, Some("path")),
            Self::NotSealed(_) => ("internal", "Something failed here", 500, Some("value")),
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
            Self::InBatch { at, refusal } => {
                let problem = refusal.problem();
                let field = field_in_batch(*at, problem.field.as_deref());
                return ProblemDetails {
                    field: Some(field.into()),
                    ..problem
                };
            }
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
            Self::InBatch { at, refusal } => {
                let shown = refusal.shown();
                let field = field_in_batch(*at, shown.field.as_deref());
                ProblemDetails {
                    field: Some(field.into()),
                    ..shown
                }
            }
            _ => self.problem(),
        }
    }
}
