//! What an operation is, who asks for it and when, and what a service's rules are.

use std::fmt;
use std::sync::Arc;

use moorline_shared::api::{ON_BEHALF_OF, ProblemDetails};
use moorline_shared::{AccountId, HostId, InstanceId, OperationId, Principal, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::content::Content;
use super::sealing::Sealing;
use super::view::{Load, View};
use crate::identity::token::SessionId;
use crate::services::AnyOp;
use crate::settings::Settings;

/// The rules of a service. Pure and synchronous: the same operation, env and reads give the same outcome, byte for
/// byte.
pub trait ServiceModel: Send + Sync + 'static {
    /// What can be asked. The variant's name is the operationId of the `OpenAPI` document and the `api` of records.
    type Op: Operation;
    /// What is answered.
    type Reply: Serialize + DeserializeOwned + Send;
    /// Why it is not done.
    type Refusal: Problem;

    /// Reads what the operation needs from `v`, and either writes what it does or refuses.
    fn step(&self, v: &mut View<'_>, op: &Self::Op, env: &Env) -> Result<Self::Reply, Stop<Self::Refusal>>;
}

/// What can be asked of a service; as JSON `{"api": NAME, "parameters": {...}}`.
pub trait Operation:
    Serialize + DeserializeOwned + Clone + fmt::Debug + Send + Sync + Into<AnyOp> + 'static
{
    /// Its name.
    fn api(&self) -> &'static str;
    /// Whether it changes anything. A read leaves a record only if it is refused.
    fn effect(&self) -> Effect;
    /// Which of its refusals leave a record.
    fn refusal_records(&self) -> RefusalRecords {
        match self.effect() {
            Effect::Change => RefusalRecords::All,
            Effect::Read => RefusalRecords::Some,
        }
    }
    /// The instances it is about, for finding its record.
    fn instances(&self) -> Vec<InstanceId>;
    /// The values in its parameters, which records name by their digest where they are long.
    fn contents(&mut self) -> Vec<&mut Content>;

    /// Offers each of these values to `sealing`, in the same order, with the entry that it is for. An operation that
    /// has values must do it, or they can't be secret.
    fn seal(&mut self, _: &mut Sealing<'_, '_>) {}

    /// Whether `recorded`, the record of an operation under the same id, is of the same request. What the control plane
    /// adds to a request, and makes anew at each try, is no part of it.
    fn repeats(&self, recorded: &AnyOp) -> bool {
        *recorded == self.for_record().into()
    }

    /// Takes out what is sealed, before its record is shown: an administrator has no use for it, and whoever has the
    /// master key must not find it in what administrators pass on.
    fn conceal(&mut self) {}

    /// The operation as records hold it.
    #[must_use]
    fn for_record(&self) -> Self {
        let mut op = self.clone();
        for content in op.contents() {
            *content = content.named();
        }
        op
    }
}

/// Whether an operation changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It may.
    Change,
    /// It only looks.
    Read,
}

/// Which refusals leave a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalRecords {
    /// Each does, and it is kept.
    All,
    /// Whoever asks can be refused as often as they like. So a bounded number does, which is kept for as long as the
    /// settings say, and these tell how many others there were.
    Some,
}

/// Why an operation is not done, as its caller and as its record see it.
pub trait Problem: std::error::Error + Send + Sync + 'static {
    /// The whole truth, for the record.
    fn problem(&self) -> ProblemDetails;
    /// What the caller may know.
    fn shown(&self) -> ProblemDetails {
        self.problem()
    }
}

/// Why a step ended without a reply.
#[derive(Debug)]
pub enum Stop<R> {
    /// The rules say no.
    Refused(R),
    /// A read is not at hand; the executor fetches it and steps again.
    Load(Load),
}

impl<R> From<Load> for Stop<R> {
    fn from(load: Load) -> Self {
        Self::Load(load)
    }
}

/// The circumstances of an operation. Nothing here is state: that is read through the view.
#[derive(Clone, Debug)]
pub struct Env {
    /// The time the operation is taken to happen at.
    pub now: Timestamp,
    /// The operation.
    pub operation: OperationId,
    /// Who asks.
    pub caller: Caller,
    /// What the deployment's configuration says.
    pub settings: Arc<Settings>,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// Who it is.
    pub principal: Principal,
    /// In which account it acts.
    pub account: AccountId,
    /// What it is there.
    pub role: Role,
    /// The host that speaks for it, where it is an instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<HostId>,
    /// The session whose token it showed, if it is known by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
}

impl Caller {
    /// The header by which a request says that it is made by this caller; a host is known by its connection.
    pub const fn header(&self) -> Option<&'static str> {
        match self.principal {
            Principal::Host(_) => None,
            Principal::Instance(_) => Some(ON_BEHALF_OF),
            Principal::User(_) | Principal::Service(_) => Some("authorization"),
        }
    }
}

/// What a caller is in its account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It administers the account.
    Administrator,
    /// It has the rights that it is given.
    Member,
    /// It is a part of the control plane, or a host that reports.
    Provider,
}

/// Something to be done later by the control plane itself: an operation, submitted when it is due.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Intent {
    /// When.
    pub due: Timestamp,
    /// What.
    pub submit: AnyOp,
}
