//! The routes of instances and hosts.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post, put};
use moorline_shared::api::data::Changed;
use moorline_shared::api::hosts::{HostPage, RegisterHost, ReportState};
use moorline_shared::api::instances::{
    Instance, InstanceIds, InstancePage, InstanceQuery, InstancesMade, ModifyInstance, RegisterInstance,
    RunInstances,
};
use moorline_shared::{HostId, InstanceId};

use super::model::Model;
use super::operations::{Describe, Op, Register, Reply, Run, With};
use crate::http::extract::{Json, Path, Query, segment};
use crate::http::page::{self, Cursor};
use crate::http::problem::Failure;
use crate::http::{Control, changed, idempotency_key, stamp};
use crate::model::{Caller, ExecuteError};
use crate::store::ReadError;

/// How many instances a page shows if the request doesn't say.
const DEFAULT_PAGE: u32 = 100;

/// The routes.
pub fn routes() -> Router<Control> {
    Router::new()
        .route("/v1/instances", post(run_instances).get(describe_instances))
        .route("/v1/instances/register", post(register_instance))
        .route("/v1/instances/start", post(start_instances))
        .route("/v1/instances/stop", post(stop_instances))
        .route("/v1/instances/reboot", post(reboot_instances))
        .route("/v1/instances/terminate", post(terminate_instances))
        .route("/v1/instances/{instance}", patch(modify_instance_attribute))
        .route("/v1/hosts", get(describe_hosts))
        .route("/v1/hosts/{host}", put(register_host))
        .route("/v1/hosts/{host}/reports", post(report_instance_state))
}

/// Makes instances and has them started.
#[utoipa::path(post, path = "/v1/instances", operation_id = "RunInstances", tag = "instances",
    request_body = RunInstances, params(("idempotency-key" = Option<String>, Header)),
    responses((status = 201, body = InstancesMade), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn run_instances(
    State(control): State<Control>,
    caller: Caller,
    headers: HeaderMap,
    Json(run): Json<RunInstances>,
) -> Result<Response, Failure> {
    let with = With {
        name: run.name,
        tags: run.tags,
        roles: run.roles,
        ..With::of_each(run.count, run.data)
    };
    let (image, instance_type) = (run.image, run.instance_type);
    let op = Op::RunInstances(Run {
        image,
        instance_type,
        count: run.count,
        host: run.host,
        zone: run.zone,
        with,
    });
    made(&control, caller, &headers, op, StatusCode::CREATED).await
}

/// Makes an instance of a VM that somebody else runs.
#[utoipa::path(post, path = "/v1/instances/register", operation_id = "RegisterInstance", tag = "instances",
    request_body = RegisterInstance, params(("idempotency-key" = Option<String>, Header)),
    responses((status = 201, body = InstancesMade), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn register_instance(
    State(control): State<Control>,
    caller: Caller,
    headers: HeaderMap,
    Json(register): Json<RegisterInstance>,
) -> Result<Response, Failure> {
    let with = With {
        name: register.name,
        tags: register.tags,
        roles: register.roles,
        ..With::of_each(1, register.data)
    };
    let op = Op::RegisterInstance(Register {
        host: register.host,
        id: register.id,
        with,
    });
    made(&control, caller, &headers, op, StatusCode::CREATED).await
}

macro_rules! ask {
    ($(#[$doc:meta])* $handler:ident, $op:ident, $path:literal) => {
        $(#[$doc])*
        #[utoipa::path(post, path = $path, tag = "instances", operation_id = stringify!($op),
            request_body = InstanceIds, params(("idempotency-key" = Option<String>, Header)),
            responses((status = 200, body = InstancesMade), (status = "default", body = moorline_shared::api::ProblemDetails)))]
        pub async fn $handler(
            State(control): State<Control>,
            caller: Caller,
            headers: HeaderMap,
            Json(ids): Json<InstanceIds>,
        ) -> Result<Response, Failure> {
            made(&control, caller, &headers, Op::$op { instances: ids.instances }, StatusCode::OK).await
        }
    };
}

ask!(
    /// Has instances started.
    start_instances, StartInstances, "/v1/instances/start");
ask!(
    /// Has instances stopped.
    stop_instances, StopInstances, "/v1/instances/stop");
ask!(
    /// Has instances rebooted.
    reboot_instances, RebootInstances, "/v1/instances/reboot");
ask!(
    /// Ends instances for good.
    terminate_instances, TerminateInstances, "/v1/instances/terminate");

/// Changes what is known of an instance.
#[utoipa::path(patch, path = "/v1/instances/{instance}", operation_id = "ModifyInstanceAttribute", tag = "instances",
    request_body = ModifyInstance,
    params(("instance" = InstanceId, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = InstancesMade), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn modify_instance_attribute(
    State(control): State<Control>,
    caller: Caller,
    Path(instance): Path<String>,
    headers: HeaderMap,
    Json(change): Json<ModifyInstance>,
) -> Result<Response, Failure> {
    let op = Op::ModifyInstanceAttribute {
        instance: segment("instance", &instance)?,
        change,
    };
    made(&control, caller, &headers, op, StatusCode::OK).await
}

/// Runs a change, and shows the instances as they are at its revision.
async fn made(
    control: &Control,
    caller: Caller,
    headers: &HeaderMap,
    op: Op,
    status: StatusCode,
) -> Result<Response, Failure> {
    let key = idempotency_key(headers)?;
    let done = control.change(&Model, op, caller, key).await?;
    let Reply::Changed(ids) = &done.reply else {
        return Err(Failure::unexpected());
    };
    let mut instances = Vec::new();
    for id in ids {
        instances.extend(shown_instance(control, done.revision.n, *id).await?);
    }
    let body = InstancesMade {
        instances,
        operation: done.operation,
        revision: done.revision,
    };
    Ok((status, stamp(&done), axum::Json(body)).into_response())
}

/// An instance as it was at `at`; as it is now if that is gone, as when a request is sent again long after.
async fn shown_instance(control: &Control, at: u64, id: InstanceId) -> Result<Option<Instance>, ReadError> {
    match control.views.shown_instance(at, id).await {
        Err(ReadError::Compacted { .. }) => {
            let head = control.executor.store().head().await?;
            control.views.shown_instance(head, id).await
        }
        found => found,
    }
}

/// Shows instances.
///
/// A terminated one is shown for a day after its end, unless the deployment's setting `keep_terminated_history` says
/// otherwise.
#[utoipa::path(get, path = "/v1/instances", operation_id = "DescribeInstances", tag = "instances",
    params(InstanceQuery),
    responses((status = 200, body = InstancePage), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn describe_instances(
    State(control): State<Control>,
    caller: Caller,
    Query(query): Query<InstanceQuery>,
) -> Result<Response, Failure> {
    let limit = page::limit(query.limit, DEFAULT_PAGE)?;
    let cursor = query.cursor.as_deref();
    let cursor = cursor.map(|text| cursor_of(&control, text)).transpose()?;
    let (at, after) = cursor.map(|cursor| (cursor.revision.n, cursor.after)).unzip();
    let op = Op::DescribeInstances(Describe {
        instance: query.instance,
        name: query.name,
        host: query.host,
        state: query.state,
        after,
        limit,
    });
    let epoch = control.executor.store().epoch();
    let done = control
        .look(&Model, op, caller, at)
        .await
        .map_err(|error| Failure::look(error, epoch, "cursor"))?;
    let (headers, revision) = (stamp(&done), done.revision);
    let Reply::Found { instances, next } = done.reply else {
        return Err(Failure::unexpected());
    };
    let next = next.map(|after| Cursor { revision, after }.to_string());
    let page = InstancePage {
        revision,
        instances,
        next,
    };
    Ok((headers, axum::Json(page)).into_response())
}

/// The cursor of a request; one of another epoch is of no page here.
fn cursor_of(control: &Control, text: &str) -> Result<Cursor<InstanceId>, Failure> {
    let cursor = Cursor::parse(text)?;
    if cursor.revision.epoch != control.executor.store().epoch() {
        return Err(page::foreign());
    }
    Ok(cursor)
}

/// Shows the hosts.
#[utoipa::path(get, path = "/v1/hosts", operation_id = "DescribeHosts", tag = "hosts",
    responses((status = 200, body = HostPage), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn describe_hosts(State(control): State<Control>, caller: Caller) -> Result<Response, Failure> {
    let done = control.look(&Model, Op::DescribeHosts {}, caller, None).await?;
    let headers = stamp(&done);
    let Reply::Hosts(hosts) = done.reply else {
        return Err(Failure::unexpected());
    };
    Ok((
        headers,
        axum::Json(HostPage {
            revision: done.revision,
            hosts,
        }),
    )
        .into_response())
}

/// A host says what it offers.
#[utoipa::path(put, path = "/v1/hosts/{host}", operation_id = "RegisterHost", tag = "hosts",
    request_body = RegisterHost,
    params(("host" = HostId, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = moorline_shared::api::hosts::Host), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn register_host(
    State(control): State<Control>,
    caller: Caller,
    Path(host): Path<String>,
    headers: HeaderMap,
    Json(offer): Json<RegisterHost>,
) -> Result<Response, Failure> {
    let host: HostId = segment("host", &host)?;
    let key = idempotency_key(&headers)?;
    let done = control
        .change(
            &Model,
            Op::RegisterHost {
                host: host.clone(),
                offer,
            },
            caller.clone(),
            key,
        )
        .await?;
    let at = Some(done.revision.n);
    let found = match control
        .look(&Model, Op::DescribeHosts {}, caller.clone(), at)
        .await
    {
        // The request was sent again long after: the host is shown as it is now.
        Err(ExecuteError::Read(ReadError::Compacted { .. })) => {
            control.look(&Model, Op::DescribeHosts {}, caller, None).await?
        }
        found => found?,
    };
    let Reply::Hosts(hosts) = found.reply else {
        return Err(Failure::unexpected());
    };
    let host = hosts.into_iter().find(|found| found.id == host);
    let host = host.ok_or_else(Failure::unexpected)?;
    Ok((stamp(&done), axum::Json(host)).into_response())
}

/// A host saw an instance change.
#[utoipa::path(post, path = "/v1/hosts/{host}/reports", operation_id = "ReportInstanceState", tag = "hosts",
    request_body = ReportState, params(("host" = HostId, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, body = Changed), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn report_instance_state(
    State(control): State<Control>,
    caller: Caller,
    Path(host): Path<String>,
    headers: HeaderMap,
    Json(report): Json<ReportState>,
) -> Result<Response, Failure> {
    let op = Op::ReportInstanceState {
        host: segment("host", &host)?,
        report,
    };
    let done = control
        .change(&Model, op, caller, idempotency_key(&headers)?)
        .await?;
    Ok(changed(&done))
}
