//! The routes of groups.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use moorline_shared::Principal;
use moorline_shared::api::identity::{CreateGroup, GroupPage, IdentityChanged};
use moorline_shared::id::GroupName;

use super::changed;
use crate::http::extract::{Json, Path, segment};
use crate::http::problem::Failure;
use crate::http::{Control, stamp};
use crate::identity::model::Model;
use crate::identity::operations::{Op, Reply};
use crate::model::Caller;

/// Makes a group in the caller's account.
#[utoipa::path(post, path = "/v1/groups", operation_id = "CreateGroup", tag = "identity",
    request_body = CreateGroup, params(("idempotency-key" = Option<String>, Header)),
    responses((status = 201, body = IdentityChanged), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn create_group(
    State(control): State<Control>,
    caller: Caller,
    headers: HeaderMap,
    Json(create): Json<CreateGroup>,
) -> Result<Response, Failure> {
    let op = Op::CreateGroup { group: create.group };
    let made = changed(&control, op, caller, &headers).await?;
    Ok((StatusCode::CREATED, made).into_response())
}

/// Removes a group, and everybody from it.
#[utoipa::path(delete, path = "/v1/groups/{group}", operation_id = "DeleteGroup", tag = "identity",
    params(("group" = GroupName, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = IdentityChanged), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn delete_group(
    State(control): State<Control>,
    caller: Caller,
    Path(group): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let group = segment("group", &group)?;
    changed(&control, Op::DeleteGroup { group }, caller, &headers).await
}

/// Takes a user or an instance into a group.
#[utoipa::path(put, path = "/v1/groups/{group}/members/{member}", operation_id = "AddGroupMember", tag = "identity",
    params(("group" = GroupName, Path), ("member" = Principal, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = IdentityChanged), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn add_group_member(
    State(control): State<Control>,
    caller: Caller,
    Path((group, member)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let (group, member) = (segment("group", &group)?, segment("member", &member)?);
    changed(&control, Op::AddGroupMember { group, member }, caller, &headers).await
}

/// Takes somebody out of a group.
#[utoipa::path(delete, path = "/v1/groups/{group}/members/{member}", operation_id = "RemoveGroupMember", tag = "identity",
    params(("group" = GroupName, Path), ("member" = Principal, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = IdentityChanged), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn remove_group_member(
    State(control): State<Control>,
    caller: Caller,
    Path((group, member)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let (group, member) = (segment("group", &group)?, segment("member", &member)?);
    changed(
        &control,
        Op::RemoveGroupMember { group, member },
        caller,
        &headers,
    )
    .await
}

/// Shows the groups of the caller's account, with their members.
#[utoipa::path(get, path = "/v1/groups", operation_id = "DescribeGroups", tag = "identity",
    responses((status = 200, body = GroupPage), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn describe_groups(State(control): State<Control>, caller: Caller) -> Result<Response, Failure> {
    let done = control.look(&Model, Op::DescribeGroups {}, caller, None).await?;
    let headers = stamp(&done);
    let Reply::Groups(groups) = done.reply else {
        return Err(Failure::unexpected());
    };
    let revision = done.revision;
    Ok((headers, axum::Json(GroupPage { revision, groups })).into_response())
}
