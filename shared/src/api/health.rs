//! Whether a control plane lives and can work, for load balancers and people.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// A control plane, or a host daemon, that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Health {
    /// The release that runs.
    pub build: String,
    /// The time there.
    pub now: Timestamp,
}

/// A control plane that can work. One that can't says why not, with the status 503.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Readiness {
    /// The release that runs.
    pub build: String,
    /// What was looked at and found good.
    pub checks: Vec<ReadinessCheck>,
}

/// What readiness depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ReadinessCheck {
    /// The store makes changes durable.
    Store,
    /// The feed tells hosts what is committed.
    Feed,
}
