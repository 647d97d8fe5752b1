//! Operation records over HTTP.

use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::problem::ProblemDetails;
use crate::id::{InstanceId, OperationId, Principal};
use crate::revision::Revision;

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Outcome {
    /// It was done.
    Done,
    /// The rules didn't allow it; nothing was changed.
    Refused {
        /// Why.
        problem: ProblemDetails,
    },
    /// It was allowed and could not be done; nothing was changed.
    Failed {
        /// Why.
        problem: ProblemDetails,
    },
}

/// A record of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// What was asked, such as `PutInstanceData`.
    pub api: String,
    /// Who asked.
    pub principal: Principal,
    /// When.
    pub at: Timestamp,
    /// The revision of its transaction.
    pub revision: Revision,
    /// With what parameters; values over 1 KiB are named by their digest.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub parameters: serde_json::Value,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What it changed.
    pub effects: Vec<Effect>,
}

/// A key that an operation changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Effect {
    /// The store's key.
    pub key: String,
    /// When it had last changed before; absent if it was not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Revision>,
    /// When it last changed after: the operation's revision; absent if it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Revision>,
}

/// `ListOperations`: a page, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OperationPage {
    /// The records.
    pub operations: Vec<Operation>,
    /// What to ask for as `cursor` to get older ones; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The query of `ListOperations`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
pub struct OperationQuery {
    /// Only those that concern this instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// The page to show: `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The most records of a page, 1 to 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}
