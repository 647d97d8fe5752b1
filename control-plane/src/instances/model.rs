//! The rules for instances and hosts: which function does what is asked.

use super::checks::Step;
use super::lifecycle::Ask;
use super::operations::{Op, Reply};
use super::refusal::Refusal;
use super::{describe, end, hosts, launch, modify};
use crate::model::{Env, ServiceModel, View};

/// The rules for instances and hosts.
#[derive(Clone, Copy, Debug)]
pub struct Model;

impl ServiceModel for Model {
    type Op = Op;
    type Reply = Reply;
    type Refusal = Refusal;

    fn step(&self, v: &mut View<'_>, op: &Op, env: &Env) -> Step<Reply> {
        match op {
            Op::RunInstances(params) => launch::run(v, env, params),
            Op::RegisterInstance(params) => launch::register(v, env, params),
            Op::StartInstances { instances } => modify::ask_all(v, env, instances, Ask::Start),
            Op::StopInstances { instances } => modify::ask_all(v, env, instances, Ask::Stop),
            Op::RebootInstances { instances } => modify::ask_all(v, env, instances, Ask::Reboot),
            Op::TerminateInstances { instances } => modify::ask_all(v, env, instances, Ask::Terminate),
            Op::ModifyInstanceAttribute { instance, change } => modify::modify(v, env, *instance, change),
            Op::DescribeInstances(which) => describe::describe(v, env, which),
            Op::ForgetInstance { instance } => end::forget(v, env, *instance),
            Op::RegisterHost { host, offer } => hosts::register_host(v, env, host, offer),
            Op::DescribeHosts {} => describe::hosts(v, env),
            Op::ReportInstanceState { host, report } => hosts::report_state(v, env, host, report),
        }
    }
}
