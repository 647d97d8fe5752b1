//! The rules for instances' sessions: which function does what is asked.

use super::operations::{Op, Reply};
use super::refusal::Refusal;
use super::rules::{self, Step, refuse};
use crate::model::{Env, ServiceModel, View};

/// The rules for instances' sessions.
#[derive(Clone, Copy, Debug)]
pub struct Model;

impl ServiceModel for Model {
    type Op = Op;
    type Reply = Reply;
    type Refusal = Refusal;

    fn step(&self, v: &mut View<'_>, op: &Op, env: &Env) -> Step<Reply> {
        match op {
            Op::CreateInstanceSession(wanted) => rules::create(v, env, wanted),
            Op::FindInstanceSession(wanted) => rules::find(v, env, wanted),
            Op::IdentifyInstance {
                instance,
                session,
                public_key,
            } => rules::identify(v, env, *instance, *session, *public_key),
            Op::PassRequestOn { reason, .. } => refuse(Refusal::Unproven(reason.clone())),
        }
    }
}
