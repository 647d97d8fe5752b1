//! The services of this control plane: the one place that knows them all.

use moorline_shared::api::ProblemDetails;
use moorline_shared::{InstanceId, OperationId, Principal};
use serde::{Deserialize, Serialize};

use crate::identity::{authority, enrolment, instances as instance_sessions, issuer};
use crate::model::execute::Attempt;
use crate::model::operation::{Effect, RefusalRecords};
use crate::model::sealing::Sealing;
use crate::model::{
    Caller, Content, Env, ExecuteError, Executor, Operation, Problem, Role, ServiceModel, Stop, View,
};
use crate::store::Key;
use crate::{accounts, identity, instance_data, instances, settings};

macro_rules! services {
    ($($(#[$doc:meta])* $variant:ident: $field:ident = $module:ident;)*) => {
        /// An operation of any service.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(untagged)]
        pub enum AnyOp {
            $($(#[$doc])* $variant($module::Op),)*
        }

        impl AnyOp {
            /// Its name.
            pub fn api(&self) -> &'static str {
                match self { $(Self::$variant(op) => op.api(),)* }
            }

            /// Whether it changes anything.
            pub fn effect(&self) -> Effect {
                match self { $(Self::$variant(op) => op.effect(),)* }
            }

            /// Which of its refusals leave a record.
            pub fn refusal_records(&self) -> RefusalRecords {
                match self { $(Self::$variant(op) => op.refusal_records(),)* }
            }

            /// The instances it is about.
            pub fn instances(&self) -> Vec<InstanceId> {
                match self { $(Self::$variant(op) => op.instances(),)* }
            }

            /// The values in its parameters.
            pub fn contents(&mut self) -> Vec<&mut Content> {
                match self { $(Self::$variant(op) => op.contents(),)* }
            }

            /// Takes out what is sealed.
            pub fn conceal(&mut self) {
                match self { $(Self::$variant(op) => op.conceal(),)* }
            }

            /// Offers these values to `sealing`.
            pub fn seal(&mut self, sealing: &mut Sealing<'_, '_>) {
                match self { $(Self::$variant(op) => op.seal(sealing),)* }
            }
        }

        /// The rules of every service.
        #[derive(Clone, Copy, Debug)]
        pub struct Services {
            $($(#[$doc])* pub $field: $module::Model,)*
        }

        impl Default for Services {
            fn default() -> Self {
                Self { $($field: $module::Model,)* }
            }
        }

        impl Services {
            /// Steps any operation.
            pub fn step(&self, v: &mut View<'_>, op: &AnyOp, env: &Env) -> Result<serde_json::Value, Stop<ProblemDetails>> {
                match op { $(AnyOp::$variant(op) => erased(&self.$field, v, op, env),)* }
            }

            /// Carries out an operation that is due, and removes its row of the outbox in the same transaction.
            pub async fn submit(&self, executor: &Executor, op: AnyOp, row: Key, id: OperationId) -> Result<(), ExecuteError> {
                match op {
                    $(AnyOp::$variant(op) => {
                        let attempt = Attempt { op, caller: outbox_caller(), id, consumes: Some(row) };
                        executor.execute(&self.$field, attempt).await.map(drop)
                    })*
                }
            }
        }
    };
}

services! {
    /// What the deployment's configuration says.
    Settings: settings = settings;
    /// Lifecycle and placement, and the hosts.
    Instances: instances = instances;
    /// The data of instances.
    InstanceData: instance_data = instance_data;
    /// What vouches for hosts and for the control plane.
    Authority: authority = authority;
    /// The certificates of hosts.
    Enrolment: enrolment = enrolment;
    /// Operation records.
    Accounts: accounts = accounts;
    /// Who everybody is: sessions, and the keys of tokens.
    Identity: identity = identity;
    /// The sessions of instances.
    InstanceSessions: instance_sessions = instance_sessions;
    /// Identity tokens and their keys.
    Issuer: issuer = issuer;
}

fn erased<M: ServiceModel>(
    model: &M,
    v: &mut View<'_>,
    op: &M::Op,
    env: &Env,
) -> Result<serde_json::Value, Stop<ProblemDetails>> {
    let reply = model.step(v, op, env).map_err(untyped)?;
    Ok(serde_json::to_value(reply).unwrap_or(serde_json::Value::Null))
}

fn untyped<R: Problem>(stop: Stop<R>) -> Stop<ProblemDetails> {
    match stop {
        Stop::Refused(refusal) => Stop::Refused(refusal.problem()),
        Stop::Load(load) => Stop::Load(load),
    }
}

/// Who submits what is due.
pub fn outbox_caller() -> Caller {
    provider("outbox")
}

/// A part of the control plane as a caller.
pub fn provider(service: &str) -> Caller {
    Caller {
        principal: Principal::Service(service.parse().expect("services have names")),
        account: "provider".parse().expect("this is a name"),
        role: Role::Provider,
        via: None,
        session: None,
    }
}
