//! What can be asked about the sessions of instances, and what is answered.

use moorline_shared::{HostId, InstanceId};
use serde::{Deserialize, Serialize};

use crate::identity::public_key::PublicKey;
use crate::identity::records::SessionRecord;
use crate::identity::token::SessionId;
use crate::model::operation::Effect;
use crate::model::{Content, Operation};
use crate::services::AnyOp;

/// The operations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "api", content = "parameters")]
pub enum Op {
    /// Begins the session of an instance for a life of its VM, unless it has one.
    CreateInstanceSession(Wanted),
    /// Finds the session that an instance has for a life of its VM.
    FindInstanceSession(Wanted),
    /// An instance shows that it has its token, and says what it signs with from now on.
    IdentifyInstance {
        /// Which instance.
        instance: InstanceId,
        /// In which session.
        session: SessionId,
        /// The key that the guest made, if it made one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        public_key: Option<PublicKey>,
    },
    /// A request that a host passed on and that is not proven to be its instance's. It is always refused: what stays of
    /// it is its record.
    PassRequestOn {
        /// The instance that it is said to be of, if it says one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<InstanceId>,
        /// Its method.
        method: String,
        /// Its path.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Which session is wanted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wanted {
    /// The host that asks.
    pub host: HostId,
    /// Which instance's.
    pub instance: InstanceId,
    /// For which life of its VM.
    pub incarnation: u64,
    /// The session that is to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead_of: Option<SessionId>,
}

impl Operation for Op {
    fn api(&self) -> &'static str {
        match self {
            Self::CreateInstanceSession(_) => "CreateInstanceSession",
            Self::FindInstanceSession(_) => "FindInstanceSession",
            Self::IdentifyInstance { .. } => "IdentifyInstance",
            Self::PassRequestOn { .. } => "PassRequestOn",
        }
    }

    fn effect(&self) -> Effect {
        match self {
            Self::CreateInstanceSession(_) | Self::IdentifyInstance { .. } => Effect::Change,
            Self::FindInstanceSession(_) | Self::PassRequestOn { .. } => Effect::Read,
        }
    }

    fn instances(&self) -> Vec<InstanceId> {
        match self {
            Self::CreateInstanceSession(wanted) | Self::FindInstanceSession(wanted) => vec![wanted.instance],
            Self::IdentifyInstance { instance, .. } => vec![*instance],
            Self::PassRequestOn { instance, .. } => instance.iter().copied().collect(),
        }
    }

    fn contents(&mut self) -> Vec<&mut Content> {
        Vec::new()
    }
}

impl From<Op> for AnyOp {
    fn from(op: Op) -> Self {
        Self::InstanceSessions(op)
    }
}

/// What is answered. No token is part of it: tokens are made of it afterwards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// This is the session, if there is one.
    Session(Option<Box<SessionRecord>>),
    /// It is done.
    Done,
}
