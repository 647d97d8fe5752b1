//! The rules for identities: who may do what is asked of them, and what it does.

pub mod groups;
pub mod keys;
pub mod login;
pub mod sessions;
pub mod users;

use super::refusal::{Refusal, refuse};
use crate::identity::records::{SessionPurpose, SessionRecord};
use crate::model::{Env, Role, Stop, View};

/// The account whose administrators administer the deployment.
pub const DEPLOYMENT_ACCOUNT: &str = "default";

/// What a rule comes to.
pub type Step<T> = Result<T, Stop<Refusal>>;

/// Refuses whoever is no part of the control plane.
pub fn by_provider(env: &Env) -> Step<()> {
    match env.caller.role {
        Role::Provider => Ok(()),
        Role::Administrator | Role::Member => deny(env, "the control plane itself"),
    }
}

/// Refuses whoever does not administer the account that they act in.
pub fn by_administrator(env: &Env) -> Step<()> {
    match env.caller.role {
        Role::Provider | Role::Administrator => Ok(()),
        Role::Member => deny(env, "an administrator of the account"),
    }
}

/// Refuses a program that shows a token of its own: what it made would outlive that token, which its user revokes to end
/// all that the program can do.
pub fn by_login(v: &mut View<'_>, env: &Env) -> Step<()> {
    let Some(id) = env.caller.session else {
        return Ok(());
    };
    let session = v.get::<SessionRecord>(&(env.caller.principal.clone(), id))?;
    match session.map(|session| session.into_inner().purpose) {
        Some(SessionPurpose::Login) => Ok(()),
        _ => deny(env, "a login, and not a program's token"),
    }
}

/// Refuses whoever does not administer the deployment itself, which is what its first account is for.
pub fn by_deployment_administrator(env: &Env) -> Step<()> {
    let deployment = env.caller.account.as_str() == DEPLOYMENT_ACCOUNT;
    match env.caller.role {
        Role::Provider => Ok(()),
        Role::Administrator if deployment => Ok(()),
        Role::Administrator | Role::Member => deny(env, "an administrator of the account 'default'"),
    }
}

/// Refuses the caller, and says who may.
fn deny<T>(env: &Env, takes: &'static str) -> Step<T> {
    let caller = Box::new(env.caller.clone());
    refuse(Refusal::Denied { caller, takes })
}
