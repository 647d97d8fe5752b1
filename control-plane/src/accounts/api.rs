//! The routes of operation records.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use moorline_shared::OperationId;
use moorline_shared::api::operations::{Operation, OperationPage, OperationQuery};

use super::model::{Model, Op};
use crate::http::extract::{Path, Query, segment};
use crate::http::problem::Failure;
use crate::http::{Control, page, stamp};
use crate::model::Caller;

/// How many records a page shows if the request doesn't say.
const DEFAULT_PAGE: u32 = 50;

/// The routes.
pub fn routes() -> Router<Control> {
    Router::new()
        .route("/v1/operations", get(list_operations))
        .route("/v1/operations/{operation}", get(describe_operation))
}

/// Shows operation records, the newest first.
///
/// Every change has one, done or refused; a read only if it was refused, and of the refused reads of one caller a burst
/// of 20 has one and then one a second, which counts those before it that have none. Those of refused reads are kept for
/// a week, unless the deployment's setting `keep_refused_reads` says otherwise.
#[utoipa::path(get, path = "/v1/operations", operation_id = "ListOperations", tag = "operations", params(OperationQuery),
    responses((status = 200, body = OperationPage), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn list_operations(
    State(control): State<Control>,
    caller: Caller,
    Query(query): Query<OperationQuery>,
) -> Result<Response, Failure> {
    let op = Op::ListOperations {
        instance: query.instance,
        before: query.cursor,
        limit: page::limit(query.limit, DEFAULT_PAGE)?,
    };
    let done = control.look(&Model, op, caller, None).await?;
    Ok((stamp(&done), axum::Json(done.reply)).into_response())
}

/// Shows one operation record. Who doesn't administer the account sees those of what it asked for itself.
///
/// The id of what somebody asks is made of who that is and of the idempotency key, so that a client that lost an answer can
/// ask what became of the request.
#[utoipa::path(get, path = "/v1/operations/{operation}", operation_id = "DescribeOperation", tag = "operations",
    params(("operation" = OperationId, Path)),
    responses((status = 200, body = Operation), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn describe_operation(
    State(control): State<Control>,
    caller: Caller,
    Path(operation): Path<String>,
) -> Result<Response, Failure> {
    let operation = segment("operation", &operation)?;
    let done = control
        .look(&Model, Op::DescribeOperation { operation }, caller, None)
        .await?;
    let headers = stamp(&done);
    let found = done.reply.operations.into_iter().next();
    Ok((headers, axum::Json(found.ok_or_else(Failure::unexpected)?)).into_response())
}
