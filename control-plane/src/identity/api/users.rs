//! The routes of users.

use std::net::IpAddr;
use std::time::Instant;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use moorline_shared::UserName;
use moorline_shared::api::identity::{
    CreateUser, IdentityChanged, ModifyUser, SetUserPassword, UserPage, WhoAmI,
};
use moorline_shared::entry::Value;
use moorline_shared::secret::Secret;
use moorline_shared::{Digest, Principal};

use super::sessions::{may_guess, too_many};
use super::{changed, revised};
use crate::http::Control;
use crate::http::auth::address::PeerAddress;
use crate::http::extract::{Json, Path, segment};
use crate::http::problem::Failure;
use crate::http::{idempotency_key, operation_id, stamp};
use crate::identity::directory::UserRecord;
use crate::identity::model::Model;
use crate::identity::operations::{Op, Reply};
use crate::model::{Caller, Record as _, Role};

/// Makes a user of the directory `local`, in the caller's account.
#[utoipa::path(post, path = "/v1/users", operation_id = "CreateUser", tag = "identity",
    request_body = CreateUser, params(("idempotency-key" = Option<String>, Header)),
    responses((status = 201, body = IdentityChanged), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn create_user(
    State(control): State<Control>,
    caller: Caller,
    headers: HeaderMap,
    Json(create): Json<CreateUser>,
) -> Result<Response, Failure> {
    let id = operation_id(&caller, idempotency_key(&headers)?);
    // Hashing costs much, and is done only for those whom the rules let do this.
    let password = match create.password {
        Some(password) if caller.role != Role::Member => {
            Some(control.passwords.hash(&create.user, password, id).await?)
        }
        _ => None,
    };
    let op = Op::CreateUser {
        user: create.user,
        role: create.role,
        password,
    };
    let made = control.identify_as(op, caller, id).await?;
    Ok((StatusCode::CREATED, revised(&made)).into_response())
}

/// Gives a user another password, which ends all of their sessions.
///
/// Administrators set anybody's. Users set their own, and say the one until now.
#[utoipa::path(put, path = "/v1/users/{user}/password", operation_id = "SetUserPassword", tag = "identity",
    request_body = SetUserPassword,
    params(("user" = UserName, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = IdentityChanged), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn set_user_password(
    State(control): State<Control>,
    caller: Caller,
    PeerAddress(address): PeerAddress,
    Path(user): Path<String>,
    headers: HeaderMap,
    Json(set): Json<SetUserPassword>,
) -> Result<Response, Failure> {
    let user: UserName = segment("user", &user)?;
    let counted = control.guesses.count_change(&caller.principal, Instant::now());
    counted.map_err(|wait| too_many(wait, "to set a password"))?;
    let knows = match set.current {
        Some(current) => proved(&control, &caller, (&user, address), current).await?,
        None => None,
    };
    let id = operation_id(&caller, idempotency_key(&headers)?);
    // Hashing costs much, and is done only for those whom the rules let do this; they refuse all others.
    let password = if knows.is_some() || caller.role != Role::Member {
        control.passwords.hash(&user, set.password, id).await?
    } else {
        Value::default()
    };
    let op = Op::SetUserPassword {
        user,
        password,
        knows,
    };
    Ok(revised(&control.identify_as(op, caller, id).await?))
}

/// What a user's own password is known by, if `current` is it. Guesses at it are counted as at the log-in.
async fn proved(
    control: &Control,
    caller: &Caller,
    (user, address): (&UserName, Option<IpAddr>),
    current: Secret,
) -> Result<Option<Digest>, Failure> {
    if caller.principal != Principal::User(user.clone()) {
        return Ok(None);
    }
    may_guess(control, user, address)?;
    let kept = user_of(control, user).await?.and_then(|user| user.password);
    Ok(control.passwords.check(user, kept.as_ref(), current).await?)
}

/// A user as the store has them now.
pub(super) async fn user_of(control: &Control, user: &UserName) -> Result<Option<UserRecord>, Failure> {
    let store = control.executor.store();
    let found = store.get(store.head().await?, &UserRecord::key(user)).await?;
    let record = found.map(|kept| serde_json::from_slice(&kept.value));
    record.transpose().map_err(|_| Failure::unexpected())
}

/// Changes what a user may do; disabling them ends all of their sessions.
#[utoipa::path(patch, path = "/v1/users/{user}", operation_id = "ModifyUser", tag = "identity",
    request_body = ModifyUser,
    params(("user" = UserName, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = IdentityChanged), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn modify_user(
    State(control): State<Control>,
    caller: Caller,
    Path(user): Path<String>,
    headers: HeaderMap,
    Json(change): Json<ModifyUser>,
) -> Result<Response, Failure> {
    let user = segment("user", &user)?;
    changed(&control, Op::ModifyUser { user, change }, caller, &headers).await
}

/// Removes a user, with their sessions and their places in groups.
#[utoipa::path(delete, path = "/v1/users/{user}", operation_id = "DeleteUser", tag = "identity",
    params(("user" = UserName, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = IdentityChanged), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn delete_user(
    State(control): State<Control>,
    caller: Caller,
    Path(user): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let user = segment("user", &user)?;
    changed(&control, Op::DeleteUser { user }, caller, &headers).await
}

/// Shows the users of the caller's account.
#[utoipa::path(get, path = "/v1/users", operation_id = "DescribeUsers", tag = "identity",
    responses((status = 200, body = UserPage), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn describe_users(State(control): State<Control>, caller: Caller) -> Result<Response, Failure> {
    let op = Op::DescribeUsers { user: None };
    let done = control.look(&Model, op, caller, None).await?;
    let headers = stamp(&done);
    let Reply::Users(users) = done.reply else {
        return Err(Failure::unexpected());
    };
    let revision = done.revision;
    Ok((headers, axum::Json(UserPage { revision, users })).into_response())
}

/// Says who the caller is.
#[utoipa::path(get, path = "/v1/whoami", operation_id = "WhoAmI", tag = "identity",
    responses((status = 200, body = WhoAmI), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn who_am_i(caller: Caller) -> Response {
    let is_administrator = caller.role != Role::Member;
    axum::Json(WhoAmI {
        principal: caller.principal,
        account: caller.account,
        administrator: is_administrator,
    })
    .into_response()
}
