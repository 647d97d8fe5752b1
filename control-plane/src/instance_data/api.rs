//! The routes of instances' data.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use moorline_shared::api::data::{
    AppendEntry, Batch, Changed, Description, Entry, EntryPage, History, ListQuery, PutEntry, SetAccess,
    WatchEvent, WatchQuery,
};
use moorline_shared::{EntryPath, InstanceId, Revision};
use serde::{Deserialize, Serialize};

use super::model::Model;
use super::operations::{More, Op, Reply, Values};
use super::reveal;
use super::watch::Watching;
use crate::http::extract::{Json, Path, Query, guard, guard_failure, segment};
use crate::http::page::{self, Cursor};
use crate::http::problem::Failure;
use crate::http::{Control, changed, idempotency_key, stamp};
use crate::model::Caller;

/// How many entries or changes a page shows if the request doesn't say.
const DEFAULT_PAGE: u32 = 100;
/// The longest long poll, in seconds.
const MAX_WAIT: u32 = 300;

/// The routes.
pub fn routes() -> Router<Control> {
    Router::new()
        .route("/v1/instances/{instance}/data", get(list_instance_data))
        .route(
            "/v1/instances/{instance}/data/{*path}",
            get(get_instance_data)
                .put(put_instance_data)
                .post(append_instance_data)
                .delete(delete_instance_data),
        )
        .route("/v1/instances/{instance}/batch", post(batch_instance_data))
        .route("/v1/instances/{instance}/watch", get(watch_instance_data))
        .route("/v1/instances/{instance}/describe", get(describe_instance_data))
        .route(
            "/v1/instances/{instance}/history/{*path}",
            get(get_instance_data_history),
        )
        .route("/v1/instances/{instance}/access/{*path}", put(set_entry_access))
}

/// Which entry a path of the API names.
fn entry((instance, path): &(String, String)) -> Result<(InstanceId, EntryPath), Failure> {
    Ok((segment("instance", instance)?, segment("path", path)?))
}

/// Runs a change of entries; a guard that fails is named by its header.
async fn change(control: &Control, caller: Caller, headers: &HeaderMap, op: Op) -> Result<Response, Failure> {
    let done = control
        .change(&Model, op, caller, idempotency_key(headers)?)
        .await
        .map_err(|failure| guard_failure(failure, headers))?;
    Ok(changed(&done))
}

/// Gives an entry another value, or makes it.
#[utoipa::path(put, path = "/v1/instances/{instance}/data/{path}", operation_id = "PutInstanceData", tag = "data",
    request_body = PutEntry,
    params(("instance" = InstanceId, Path), ("path" = EntryPath, Path), ("if-match" = Option<String>, Header),
        ("if-none-match" = Option<String>, Header), ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = Changed), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn put_instance_data(
    State(control): State<Control>,
    caller: Caller,
    Path(which): Path<(String, String)>,
    headers: HeaderMap,
    Json(new): Json<PutEntry>,
) -> Result<Response, Failure> {
    let (instance, path) = entry(&which)?;
    let op = Op::PutInstanceData {
        instance,
        path,
        guard: guard(&headers)?,
        new: new.into(),
    };
    change(&control, caller, &headers, op).await
}

/// Adds to the end of an entry's value.
#[utoipa::path(post, path = "/v1/instances/{instance}/data/{path}", operation_id = "AppendInstanceData", tag = "data",
    request_body = AppendEntry,
    params(("instance" = InstanceId, Path), ("path" = EntryPath, Path), ("if-match" = Option<String>, Header),
        ("if-none-match" = Option<String>, Header), ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = Changed), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn append_instance_data(
    State(control): State<Control>,
    caller: Caller,
    Path(which): Path<(String, String)>,
    headers: HeaderMap,
    Json(more): Json<AppendEntry>,
) -> Result<Response, Failure> {
    let (instance, path) = entry(&which)?;
    let op = Op::AppendInstanceData {
        instance,
        path,
        guard: guard(&headers)?,
        content: more.value.into(),
    };
    change(&control, caller, &headers, op).await
}

/// Removes an entry.
#[utoipa::path(delete, path = "/v1/instances/{instance}/data/{path}", operation_id = "DeleteInstanceData", tag = "data",
    params(("instance" = InstanceId, Path), ("path" = EntryPath, Path), ("if-match" = Option<String>, Header),
        ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = Changed), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn delete_instance_data(
    State(control): State<Control>,
    caller: Caller,
    Path(which): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let (instance, path) = entry(&which)?;
    let op = Op::DeleteInstanceData {
        instance,
        path,
        guard: guard(&headers)?,
    };
    change(&control, caller, &headers, op).await
}

/// Makes several changes, all or none.
#[utoipa::path(post, path = "/v1/instances/{instance}/batch", operation_id = "BatchInstanceData", tag = "data",
    request_body = Batch, params(("instance" = InstanceId, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = Changed), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn batch_instance_data(
    State(control): State<Control>,
    caller: Caller,
    Path(instance): Path<String>,
    headers: HeaderMap,
    Json(batch): Json<Batch>,
) -> Result<Response, Failure> {
    let changes = batch.changes.into_iter().map(Into::into).collect();
    let op = Op::BatchInstanceData {
        instance: segment("instance", &instance)?,
        changes,
    };
    change(&control, caller, &headers, op).await
}

/// Says who may do what with an entry.
#[utoipa::path(put, path = "/v1/instances/{instance}/access/{path}", operation_id = "SetEntryAccess", tag = "data",
    request_body = SetAccess,
    params(("instance" = InstanceId, Path), ("path" = EntryPath, Path), ("if-match" = Option<String>, Header),
        ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = Changed), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn set_entry_access(
    State(control): State<Control>,
    caller: Caller,
    Path(which): Path<(String, String)>,
    headers: HeaderMap,
    Json(set): Json<SetAccess>,
) -> Result<Response, Failure> {
    let (instance, path) = entry(&which)?;
    let op = Op::SetEntryAccess {
        instance,
        path,
        guard: guard(&headers)?,
        access: set.access,
    };
    change(&control, caller, &headers, op).await
}

/// Shows an entry.
#[utoipa::path(get, path = "/v1/instances/{instance}/data/{path}", operation_id = "GetInstanceData", tag = "data",
    params(("instance" = InstanceId, Path), ("path" = EntryPath, Path)),
    responses((status = 200, body = Entry), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn get_instance_data(
    State(control): State<Control>,
    caller: Caller,
    Path(which): Path<(String, String)>,
) -> Result<Response, Failure> {
    let (instance, path) = entry(&which)?;
    let done = control
        .look(&Model, Op::GetInstanceData { instance, path }, caller, None)
        .await?;
    let mut headers = stamp(&done);
    let Reply::Entry(shown) = done.reply else {
        return Err(Failure::unexpected());
    };
    let entry = reveal::entry(&control.master, instance, *shown)?;
    if let Ok(tag) = HeaderValue::try_from(format!("\"{}\"", entry.revision)) {
        headers.insert(header::ETAG, tag);
    }
    Ok((headers, axum::Json(entry)).into_response())
}

/// Shows a page of the entries that the caller may read.
#[utoipa::path(get, path = "/v1/instances/{instance}/data", operation_id = "ListInstanceData", tag = "data",
    params(("instance" = InstanceId, Path), ListQuery),
    responses((status = 200, body = EntryPage), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn list_instance_data(
    State(control): State<Control>,
    caller: Caller,
    Path(instance): Path<String>,
    Query(query): Query<ListQuery>,
) -> Result<Response, Failure> {
    let limit = page::limit(query.limit, DEFAULT_PAGE)?;
    let Start { at, after, field } = Start::of(&control, &query)?;
    let instance = segment("instance", &instance)?;
    let op = Op::ListInstanceData {
        instance,
        prefix: query.prefix,
        after,
        limit,
        values: if query.values {
            Values::Shown
        } else {
            Values::LeftOut
        },
    };
    let epoch = control.executor.store().epoch();
    let done = control
        .look(&Model, op, caller, at)
        .await
        .map_err(|error| Failure::look(error, epoch, field))?;
    let (headers, revision) = (stamp(&done), done.revision);
    let Reply::Page { entries, more } = done.reply else {
        return Err(Failure::unexpected());
    };
    let entries = reveal::entries(&control.master, instance, entries)?;
    let last = entries.last().filter(|_| more == More::Yes);
    let after = last.map(|last| &last.path);
    let next = after.map(|after| Cursor { revision, after }.to_string());
    let page = EntryPage {
        revision,
        entries,
        next,
    };
    Ok((headers, axum::Json(page)).into_response())
}

/// Where a page of a listing begins.
struct Start {
    /// In which state; in the newest if the request doesn't say.
    at: Option<u64>,
    /// After which entry.
    after: Option<EntryPath>,
    /// Which field of the request names the state.
    field: &'static str,
}

impl Start {
    fn of(control: &Control, query: &ListQuery) -> Result<Self, Failure> {
        let (revision, after, field) = match &query.cursor {
            Some(text) => {
                let Cursor { revision, after } = Cursor::parse(text)?;
                (Some(revision), Some(after), "cursor")
            }
            None => (query.revision, None, "revision"),
        };
        let at = revision
            .map(|revision| in_epoch(control, revision, field))
            .transpose()?;
        Ok(Self { at, after, field })
    }
}

fn in_epoch(control: &Control, revision: Revision, field: &'static str) -> Result<u64, Failure> {
    if revision.epoch == control.executor.store().epoch() {
        return Ok(revision.n);
    }
    let detail = format!("revision {revision} is of another epoch; begin again without {field}");
    Err(Failure::new(
        "revision-compacted",
        StatusCode::GONE,
        "The revision is gone",
        detail,
    )
    .field(field))
}

/// Shows the published listing.
#[utoipa::path(get, path = "/v1/instances/{instance}/describe", operation_id = "DescribeInstanceData", tag = "data",
    params(("instance" = InstanceId, Path)),
    responses((status = 200, body = Description), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn describe_instance_data(
    State(control): State<Control>,
    caller: Caller,
    Path(instance): Path<String>,
) -> Result<Response, Failure> {
    let op = Op::DescribeInstanceData {
        instance: segment("instance", &instance)?,
    };
    let done = control.look(&Model, op, caller, None).await?;
    let headers = stamp(&done);
    let Reply::Description(entries) = done.reply else {
        return Err(Failure::unexpected());
    };
    Ok((
        headers,
        axum::Json(Description {
            revision: done.revision,
            entries,
        }),
    )
        .into_response())
}

/// The query of `GetInstanceDataHistory`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HistoryQuery {
    /// The page to show: `next` of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
    /// The most changes of a page, 1 to 1,000.
    #[serde(default)]
    pub limit: Option<u32>,
}

/// Shows the changes of an entry, the newest first.
///
/// Only the newest are kept: 100, unless the deployment's setting `keep_changes` says otherwise.
#[utoipa::path(get, path = "/v1/instances/{instance}/history/{path}", operation_id = "GetInstanceDataHistory", tag = "data",
    params(("instance" = InstanceId, Path), ("path" = EntryPath, Path), HistoryQuery),
    responses((status = 200, body = History), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn get_instance_data_history(
    State(control): State<Control>,
    caller: Caller,
    Path(which): Path<(String, String)>,
    Query(query): Query<HistoryQuery>,
) -> Result<Response, Failure> {
    let (which, limit) = (entry(&which)?, page::limit(query.limit, DEFAULT_PAGE)?);
    let op = Op::GetInstanceDataHistory {
        instance: which.0,
        path: which.1.clone(),
        before: query.cursor,
        limit,
    };
    let done = control.look(&Model, op, caller, None).await?;
    let headers = stamp(&done);
    let Reply::History { changes, next } = done.reply else {
        return Err(Failure::unexpected());
    };
    let history = reveal::history(&control.master, &which, changes, next)?;
    Ok((headers, axum::Json(history)).into_response())
}

/// Shows what changes: a stream of lines of JSON, or with `wait_seconds` the first change.
#[utoipa::path(get, path = "/v1/instances/{instance}/watch", operation_id = "WatchInstanceData", tag = "data",
    params(("instance" = InstanceId, Path), WatchQuery),
    responses(
        (status = 200, content((WatchEvent = "application/x-ndjson"), (WatchEvent = "application/json"))),
        (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn watch_instance_data(
    State(control): State<Control>,
    caller: Caller,
    Path(instance): Path<String>,
    Query(query): Query<WatchQuery>,
) -> Result<Response, Failure> {
    let wait = query.wait_seconds;
    if let Some(seconds) = wait.filter(|seconds| !(1..=MAX_WAIT).contains(seconds)) {
        return Err(Failure::invalid(
            "wait_seconds",
            format!("it is {seconds}; it must be 1 to {MAX_WAIT}"),
        ));
    }
    let instance = segment("instance", &instance)?;
    let watching = Watching::begin(control, caller, instance, query.prefix, query.after).await?;
    match wait {
        Some(seconds) => Ok(axum::Json(watching.first(seconds).await?).into_response()),
        None => Ok(watching.stream()),
    }
}
