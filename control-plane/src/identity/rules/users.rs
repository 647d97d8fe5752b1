//! The rules for users.

use moorline_shared::api::identity::{AccountRole, ModifyUser, UserState};
use moorline_shared::entry::Value;
use moorline_shared::{Digest, UserName};

use super::groups::{leave_all, never_before};
use super::sessions::end_all;
use super::{Step, by_administrator, by_login, deny};
use crate::identity::directory::{Former, FormerRecord, UserCountRecord, UserRecord};
use crate::identity::operations::Reply;
use crate::identity::refusal::{Refusal, refuse};
use crate::model::{Env, Kept, Page, Role, View};

/// The most users of the directory.
pub const MAX_USERS: usize = 100_000;
/// Who the bearer of the deployment's own token is.
const RESERVED: &str = "admin";

/// Makes a user in the caller's account.
pub fn create(
    v: &mut View<'_>,
    env: &Env,
    name: &UserName,
    role: AccountRole,
    password: Option<&Value>,
) -> Step<Reply> {
    by_administrator(env)?;
    by_login(v, env)?;
    if name.as_str() == RESERVED || v.get::<UserRecord>(name)?.is_some() {
        return refuse(Refusal::UserTwice(name.clone()));
    }
    never_before(v, Former::User(name.clone()))?;
    let users = count(v)?;
    if users >= MAX_USERS {
        return refuse(Refusal::TooManyUsers);
    }
    v.put(&UserCountRecord { users: users + 1 });
    v.put(&UserRecord {
        name: name.clone(),
        account: env.caller.account.clone(),
        role,
        state: UserState::Enabled,
        password: password.cloned(),
        created_at: env.now,
    });
    Ok(Reply::Done)
}

/// How many users there are. Where nobody has counted yet, it is done now.
fn count(v: &mut View<'_>) -> Step<usize> {
    match v.get::<UserCountRecord>(&())? {
        Some(count) => Ok(count.users),
        None => Ok(v.scan::<UserRecord>(&(), &Page::ALL)?.len()),
    }
}

/// Gives a user another password, and ends what they had by the one before.
///
/// Administrators set anybody's; users set their own, and `knows` is the digest of what they have proved to know.
pub fn set_password(
    v: &mut View<'_>,
    env: &Env,
    name: &UserName,
    password: &Value,
    knows: Option<&Digest>,
) -> Step<Reply> {
    by_login(v, env)?;
    let user = visible(v, env, name)?;
    let proved = knows.is_some() && user.password.as_ref().map(digest).as_ref() == knows;
    if !proved && env.caller.role == Role::Member {
        return deny(
            env,
            "an administrator of the account, or the user with their current password",
        );
    }
    v.put(&UserRecord {
        password: Some(password.clone()),
        ..user.into_inner()
    });
    end_all(v, env, &moorline_shared::Principal::User(name.clone()))?;
    Ok(Reply::Done)
}

/// What a password is known by to the rules, which can't check one.
pub fn digest(sealed: &Value) -> Digest {
    Digest::of(sealed.bytes())
}

/// Changes what a user may do.
pub fn modify(v: &mut View<'_>, env: &Env, name: &UserName, change: ModifyUser) -> Step<Reply> {
    by_administrator(env)?;
    by_login(v, env)?;
    let user = visible(v, env, name)?.into_inner();
    let state = change.state.unwrap_or(user.state);
    let principal = user.principal();
    v.put(&UserRecord {
        role: change.role.unwrap_or(user.role),
        state,
        ..user
    });
    if state == UserState::Disabled {
        end_all(v, env, &principal)?;
    }
    Ok(Reply::Done)
}

/// Removes a user, with their sessions and their places in groups.
pub fn delete(v: &mut View<'_>, env: &Env, name: &UserName) -> Step<Reply> {
    by_administrator(env)?;
    let principal = visible(v, env, name)?.principal();
    let users = count(v)?.saturating_sub(1);
    v.put(&UserCountRecord { users });
    end_all(v, env, &principal)?;
    leave_all(v, &principal)?;
    v.delete::<UserRecord>(name);
    v.put(&FormerRecord {
        name: Former::User(name.clone()),
        removed_at: env.now,
    });
    Ok(Reply::Done)
}

/// The users of the caller's account; of the whole deployment for the control plane. Members see themselves.
pub fn describe(v: &mut View<'_>, env: &Env, name: Option<&UserName>) -> Step<Reply> {
    if let Some(name) = name {
        let user = visible(v, env, name)?;
        return Ok(Reply::Users(vec![user.into_inner().shown()]));
    }
    by_administrator(env)?;
    let page = Page {
        after: None,
        limit: MAX_USERS,
    };
    let all = v
        .scan::<UserRecord>(&(), &page)?
        .into_iter()
        .map(Kept::into_inner);
    let of_account =
        all.filter(|user| env.caller.role == Role::Provider || user.account == env.caller.account);
    Ok(Reply::Users(of_account.map(UserRecord::shown).collect()))
}

/// A user whom the caller may know of: themselves, or one of the account that the caller administers.
fn visible(v: &mut View<'_>, env: &Env, name: &UserName) -> Step<Kept<UserRecord>> {
    let caller = &env.caller;
    let user = v.get::<UserRecord>(name)?.filter(|user| match caller.role {
        Role::Provider => true,
        Role::Administrator => user.account == caller.account,
        Role::Member => user.principal() == caller.principal,
    });
    user.map_or_else(|| refuse(Refusal::UnknownUser(name.clone())), Ok)
}
