//! The rules for identities: which function does what is asked.

use super::operations::{Op, Reply};
use super::refusal::Refusal;
use super::rules::{Step, groups, keys, login, sessions, users};
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
            Op::ForgetRevocation { revoked } => sessions::forget_revocation(v, env, revoked),
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
            Op::CreateUser { user, role, password } => users::create(v, env, user, *role, password.as_ref()),
            Op::SetUserPassword {
                user,
                password,
                knows,
            } => users::set_password(v, env, user, password, knows.as_ref()),
            Op::ModifyUser { user, change } => users::modify(v, env, user, *change),
            Op::DeleteUser { user } => users::delete(v, env, user),
            Op::DescribeUsers { user } => users::describe(v, env, user.as_ref()),
            Op::CreateGroup { group } => groups::create(v, env, group),
            Op::DeleteGroup { group } => groups::delete(v, env, group),
            Op::AddGroupMember { group, member } => groups::add(v, env, group, member),
            Op::RemoveGroupMember { group, member } => groups::remove(v, env, group, member),
            Op::DescribeGroups {} => groups::describe(v, env),
            Op::LogIn(params) => login::log_in(v, env, params),
            Op::RefreshTokens {
                principal,
                session,
                grant,
                client,
            } => login::refresh(v, env, &(principal.clone(), *session), *grant, client.as_ref()),
            Op::CreateToken { name, lifetime } => login::create_token(v, env, name, *lifetime),
        }
    }
}
