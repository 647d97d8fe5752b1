//! Why an operation on instances' data is not done, and how much of it the caller is told.

use moorline_shared::access::Right;
use moorline_shared::api::ProblemDetails;
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
