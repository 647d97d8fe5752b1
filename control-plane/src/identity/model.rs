//! The rules for identities: which function does what is asked.

use super::operations::{Op, Reply};
use super::refusal::Refusal;
use super::rules::{Step, keys, sessions};
use crate::model::{Env, ServiceModel, View};

/// The rules for identities.
#[derive(Clone, Copy, Debug)]
pub struct Model;

impl ServiceModel for Model {
    type Op = Op;
    type Reply = Reply;
    type Refusal = Refusal;

    fn step(&self, v: &mut View<'_>, op: &Op, env: &Env) -> Step<Reply> {
        match op {
            Op::CreateSession(new) => sessions::create(v, env, new),
            Op::EndSession { principal, session } => sessions::end(v, env, principal, *session),
            Op::ForgetSession { principal, session } => sessions::forget(v, env, principal, *session),
            Op::DescribeSessions { principal } => sessions::describe(v, env, principal),
            Op::StageTokenKey { key, sealed } => keys::stage(v, env, *key, sealed),
            Op::PromoteTokenKey { key } => keys::promote(v, env, *key),
            Op::RetireTokenKey { key } => keys::retire(v, env, *key),
            Op::DestroyTokenKey {
                key,
                needed_until,
                if_needed,
            } => keys::destroy(v, env, *key, *needed_until, *if_needed),
            Op::DescribeTokenKeys {} => keys::describe(v, env),
        }
    }
}
