//! The rules for identities: who may do what is asked of them, and what it does.

pub mod groups;
pub mod keys;
pub mod login;
pub mod sessions;
pub mod users;

use super::refusal::{Refusal, refuse};
use crate::model::{Env, Role, Stop};

/// The account whose administrators administer the deployment.
const DEPLOYMENT_ACCOUNT: &str = "default";

/// What a rule comes to.
pub type Step<T> = Result<T, Stop<Refusal>>;

/// Refuses whoever is no part of the control plane.
pub fn by_provider(env: &Env) -> Step<()> {
    allow(env, env.caller.role == Role::Provider, "the control plane itself")
}

/// Refuses whoever does not administer the account that they act in.
pub fn by_administrator(env: &Env) -> Step<()> {
    allow(
        env,
        env.caller.role != Role::Member,
        "an administrator of the account",
    )
}

/// Refuses whoever does not administer the deployment itself, which is what its first account is for.
pub fn by_deployment_administrator(env: &Env) -> Step<()> {
    let deployment = env.caller.account.as_str() == DEPLOYMENT_ACCOUNT;
    let allowed = match env.caller.role {
        Role::Provider => true,
        Role::Administrator => deployment,
        Role::Member => false,
    };
    allow(env, allowed, "an administrator of the account 'default'")
}

fn allow(env: &Env, allowed: bool, takes: &'static str) -> Step<()> {
    if allowed {
        return Ok(());
    }
    let caller = Box::new(env.caller.clone());
    refuse(Refusal::Denied { caller, takes })
}
