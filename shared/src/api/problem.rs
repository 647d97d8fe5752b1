//! Errors as problem details (RFC 9457).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::id::OperationId;
use crate::revision::Revision;

/// Why a request was not done, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProblemDetails {
    /// A word that names the kind of problem and stays the same between versions, such as `entry-not-found`.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// The kind of problem in a few words.
    pub title: Cow<'static, str>,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong in this case, and what to do.
    pub detail: String,
    /// Which field of the request is at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<Cow<'static, str>>,
    /// The operation that left a record of this, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// As of which revision this is so: the state that a refused read read, or the one that recorded the refusal of a
    /// change. Absent where no state decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
}

impl ProblemDetails {
    /// A problem of this kind, which no field is at fault for, nothing is recorded of and no state decided.
    pub fn new(
        kind: impl Into<Cow<'static, str>>,
        title: impl Into<Cow<'static, str>>,
        status: u16,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind: kind.into(),
            title: title.into(),
            status,
            detail: detail.into(),
            field: None,
            operation: None,
            revision: None,
        }
    }

    /// The same, with the field of the request that is at fault, if one is.
    #[must_use]
    pub fn at(self, field: Option<impl Into<Cow<'static, str>>>) -> Self {
        let field = field.map(Into::into);
        Self { field, ..self }
    }
}
