//! The operations on operation records.

use moorline_shared::api::ProblemDetails;
use moorline_shared::api::operations::{
    Effect as ShownEffect, Operation as Shown, OperationPage, Outcome as ShownOutcome,
};
use moorline_shared::{AccountId, InstanceId, OperationId, Principal, Revision};
use serde::{Deserialize, Serialize};

use crate::identity::rules::DEPLOYMENT_ACCOUNT;
use crate::instances::hearing::{Unheard, heard};
use crate::instances::records::InstanceRecord;
use crate::model::journal::{ChangedTo, Outcome, TimelineRow, timeline_prefix};
use crate::model::operation::Effect;
use crate::model::{
    Caller, Content, Env, Kept, Operation, OperationRecord, Page, Problem, Role, ServiceModel, Stop, View,
};
use crate::services::AnyOp;
use crate::store::Key;

/// The operations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "api", content = "parameters")]
pub enum Op {
    /// Shows one operation record.
    DescribeOperation {
        /// Which.
        operation: OperationId,
    },
    /// Shows operation records, the newest first.
    ListOperations {
        /// Only those about this instance.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<InstanceId>,
        /// Only those before the one whose row this is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<String>,
        /// The most.
        limit: u32,
    },
    /// Removes the records of refused reads that are no longer kept. Only the control plane itself does it.
    ForgetRefusedReads {
        /// The revisions at which they were made.
        revisions: Vec<u64>,
    },
}

impl Operation for Op {
    fn api(&self) -> &'static str {
        match self {
            Self::DescribeOperation { .. } => "DescribeOperation",
            Self::ListOperations { .. } => "ListOperations",
            Self::ForgetRefusedReads { .. } => "ForgetRefusedReads",
        }
    }

    fn effect(&self) -> Effect {
        match self {
            Self::DescribeOperation { .. } | Self::ListOperations { .. } => Effect::Read,
            Self::ForgetRefusedReads { .. } => Effect::Change,
        }
    }

    fn instances(&self) -> Vec<InstanceId> {
        match self {
            Self::DescribeOperation { .. } | Self::ForgetRefusedReads { .. } => Vec::new(),
            Self::ListOperations { instance, .. } => instance.iter().copied().collect(),
        }
    }

    fn contents(&mut self) -> Vec<&mut Content> {
        Vec::new()
    }
}

impl From<Op> for AnyOp {
    fn from(op: Op) -> Self {
        Self::Accounts(op)
    }
}

/// Why an operation is not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// There is no such record, or it is another account's.
    #[error("there is no operation {0}; list the operations to see which there are")]
    Unknown(OperationId),
    /// The caller is an instance that isn't heard.
    #[error(transparent)]
    Unheard(#[from] Unheard),
    /// The caller may not look.
    #[error("{} may not do this: it takes an administrator of the account", .0.principal)]
    NotAdministrator(Caller),
    /// A cursor is not one of ours.
    #[error("the cursor is not one that an earlier page gave; begin again without a cursor")]
    Cursor,
}

impl Problem for Refusal {
    fn problem(&self) -> ProblemDetails {
        let (kind, title, status, field) = match self {
            Self::Unheard(unheard) => return unheard.problem(),
            Self::Unknown(_) => ("operation-not-found", "No such operation", 404, Some("operation")),
            Self::NotAdministrator(caller) => ("access-denied", "Not allowed", 403, caller.header()),
            Self::Cursor => (
                "invalid-cursor",
                "The cursor is not well formed",
                422,
                Some("cursor"),
            ),
        };
        ProblemDetails::new(kind, title, status, self.to_string()).at(field)
    }
}

/// The rules for operation records.
#[derive(Clone, Copy, Debug)]
pub struct Model;

type Step<T> = Result<T, Stop<Refusal>>;

impl ServiceModel for Model {
    type Op = Op;
    type Reply = OperationPage;
    type Refusal = Refusal;

    fn step(&self, v: &mut View<'_>, op: &Op, env: &Env) -> Step<OperationPage> {
        let allowed = match op {
            Op::ForgetRefusedReads { .. } => env.caller.role == Role::Provider,
            Op::ListOperations { .. } => env.caller.role != Role::Member,
            // Whoever asked for something may know what became of it.
            Op::DescribeOperation { .. } => true,
        };
        if !allowed {
            return Err(Stop::Refused(Refusal::NotAdministrator(env.caller.clone())));
        }
        if let Principal::Instance(id) = &env.caller.principal {
            let heard = heard(v.get(id)?, *id, &env.caller);
            heard.map_err(|unheard| Stop::Refused(unheard.into()))?;
        }
        match op {
            Op::DescribeOperation { operation } => {
                let found = v.get::<OperationRecord>(operation)?;
                let Some(record) = found else {
                    return Err(Stop::Refused(Refusal::Unknown(*operation)));
                };
                if !is_visible(v, &record, env)? {
                    return Err(Stop::Refused(Refusal::Unknown(*operation)));
                }
                let shown = match env.caller.role {
                    Role::Member => shown_to_asker(record),
                    Role::Administrator | Role::Provider => shown(record),
                };
                Ok(OperationPage {
                    operations: vec![shown],
                    next: None,
                })
            }
            Op::ListOperations {
                instance,
                before,
                limit,
            } => list(v, env, *instance, before.as_deref(), *limit as usize),
            // The records themselves are no state that rules read: whoever asks removes them with this.
            Op::ForgetRefusedReads { .. } => Ok(OperationPage {
                operations: Vec::new(),
                next: None,
            }),
        }
    }
}

/// Administrators see what was done in their account, and what the provider did about their instances. All else that the
/// provider does concerns the deployment, and is for who administers that. Others see what they asked for.
fn is_visible(v: &mut View<'_>, record: &OperationRecord, env: &Env) -> Step<bool> {
    let (asker, own) = (&env.caller, &env.caller.account);
    match asker.role {
        Role::Provider => Ok(true),
        Role::Member => Ok(record.caller.principal == asker.principal),
        Role::Administrator if record.caller.role == Role::Provider => {
            Ok(own.as_str() == DEPLOYMENT_ACCOUNT || is_about(v, record, own)?)
        }
        Role::Administrator => Ok(record.caller.account == *own),
    }
}

/// Whether a record is about instances, and all of them are of the account.
fn is_about(v: &mut View<'_>, record: &OperationRecord, account: &AccountId) -> Step<bool> {
    let about = record.asked.instances();
    for instance in &about {
        let found = v.get::<InstanceRecord>(instance)?;
        if found.is_none_or(|instance| instance.account != *account) {
            return Ok(false);
        }
    }
    Ok(!about.is_empty())
}

fn list(
    v: &mut View<'_>,
    env: &Env,
    instance: Option<InstanceId>,
    before: Option<&str>,
    limit: usize,
) -> Step<OperationPage> {
    let prefix = timeline_prefix(instance);
    let after = before.map(|row| cursor(&prefix, row)).transpose()?;
    let rows = v.scan::<TimelineRow>(
        &instance,
        &Page {
            after,
            limit: limit + 1,
        },
    )?;
    let next = rows
        .get(limit.wrapping_sub(1))
        .filter(|_| rows.len() > limit)
        .map(|row| row.cursor());
    v.foresee::<OperationRecord>(rows.iter().take(limit).map(|row| row.operation))?;
    let mut operations = Vec::new();
    for row in rows.iter().take(limit) {
        let record = v.get::<OperationRecord>(&row.operation)?;
        if let Some(record) = record
            && is_visible(v, &record, env)?
        {
            operations.push(shown(record));
        }
    }
    Ok(OperationPage { operations, next })
}

fn cursor(prefix: &str, row: &str) -> Step<Key> {
    let plain = row.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') && row.len() <= 128;
    Key::try_from(format!("{prefix}{row}"))
        .ok()
        .filter(|_| plain)
        .ok_or(Stop::Refused(Refusal::Cursor))
}

/// What the asker was told when it asked, and no more: neither why it was really refused, nor what else it touched.
fn shown_to_asker(record: Kept<OperationRecord>) -> Shown {
    let told = match &record.outcome {
        Outcome::Refused { shown, .. } => shown.clone(),
        Outcome::Done(_) | Outcome::Failed { .. } => None,
    };
    let mut shown = shown(record);
    shown.effects.clear();
    if let Some(told) = told {
        shown.outcome = ShownOutcome::Refused { problem: *told };
    }
    shown
}

fn shown(record: Kept<OperationRecord>) -> Shown {
    let revision = record.revision.unwrap_or_default();
    let mut record = record.into_inner();
    record.asked.conceal();
    let asked = serde_json::to_value(&record.asked).unwrap_or_default();
    Shown {
        id: record.id,
        api: record.asked.api().to_owned(),
        principal: record.caller.principal,
        at: record.at,
        revision,
        parameters: asked.get("parameters").cloned().unwrap_or_default(),
        outcome: match record.outcome {
            Outcome::Done(_) => ShownOutcome::Done,
            Outcome::Refused { problem, .. } => ShownOutcome::Refused { problem: *problem },
            Outcome::Failed { problem } => ShownOutcome::Failed { problem: *problem },
        },
        effects: record
            .effects
            .into_iter()
            .map(|changed| ShownEffect {
                key: changed.key,
                before: changed.before.map(|n| Revision::new(revision.epoch, n)),
                after: (changed.to == ChangedTo::Put).then_some(revision),
            })
            .collect(),
    }
}
