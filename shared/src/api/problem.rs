//! Errors as problem details (RFC 9457).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::id::OperationId;

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
}
