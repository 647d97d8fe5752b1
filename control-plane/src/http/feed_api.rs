//! The routes of the feed: for hosts only.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::StreamExt as _;
use moorline_shared::api::feed::{FeedMessage, OpenFeed, SetInterests, View, ViewId};
use moorline_shared::api::sync::{HostSync, SyncHost};
use moorline_shared::{HostId, InstanceId, Principal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Control;
use super::extract::{Json, Path, segment};
use super::feed::dispatcher::Ended;
use super::feed::feeds::Interest;
use super::feed::parts::{Gone, Sink};
use super::feed::stream::{FeedError, Stream};
use super::problem::Failure;
use crate::model::Caller;

/// The most views that a host may ask for beside those of its own instances on themselves.
const MAX_INTERESTS: usize = 65_536;

/// How long a host may be ahead of this process before nothing is said of what it has.
const IN_STEP: Duration = Duration::from_secs(1);

/// The routes.
pub fn routes() -> Router<Control> {
    Router::new()
        .route("/v1/hosts/{host}/feed", post(open_feed))
        .route("/v1/hosts/{host}/interests", post(set_interests))
        .route("/v1/hosts/{host}/sync", post(sync_host))
        .route("/v1/hosts/{host}/views/{reader}/{instance}", get(get_feed_view))
}

/// Only the host itself may have its feed.
fn own(caller: &Caller, host: &str) -> Result<HostId, Failure> {
    let host: HostId = segment("host", host)?;
    if caller.principal == Principal::Host(host.clone()) {
        return Ok(host);
    }
    let detail = format!("{} may not have the feed of host {host}", caller.principal);
    Err(Failure::new(
        "access-denied",
        StatusCode::FORBIDDEN,
        "Not allowed",
        detail,
    ))
}

impl From<Ended> for Failure {
    fn from(ended: Ended) -> Self {
        Self::new(
            "unavailable",
            StatusCode::SERVICE_UNAVAILABLE,
            "Not now",
            ended.to_string(),
        )
    }
}

/// Opens a host's feed: one stream of lines of JSON, which with `poll` ends by itself.
#[utoipa::path(post, path = "/v1/hosts/{host}/feed", operation_id = "OpenFeed", tag = "hosts", request_body = OpenFeed,
    params(("host" = HostId, Path)),
    responses((status = 200, body = FeedMessage, content_type = "application/x-ndjson"),
        (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn open_feed(
    State(control): State<Control>,
    caller: Caller,
    Path(host): Path<String>,
    Json(open): Json<OpenFeed>,
) -> Result<Response, Failure> {
    let host = own(&caller, &host)?;
    bounded(open.interests.len(), "interests")?;
    bounded(open.poll.as_ref().map_or(0, |poll| poll.add.len()), "poll.add")?;
    let opened = control.feed.open(host.clone(), open.clone()).await?;
    let (store, views) = (control.executor.store().clone(), control.views.clone());
    let stream = Stream::new(
        store,
        views,
        control.feed.clone(),
        host,
        &opened,
        control.cancel.clone(),
    );
    let (lines, body) = mpsc::channel(1);
    let deployment = control.deployment.to_string();
    let writing = async move {
        let mut sink = Lines(lines);
        if let Err(FeedError::Read(error)) = stream.run(deployment, open, opened, &mut sink).await {
            tracing::warn!(error = %error, "a feed ended; its host gets everything anew");
        }
    };
    Ok((
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(driven(body, writing)),
    )
        .into_response())
}

/// The lines of a feed, whose writer lives exactly as long as the body does: nothing is spawned, nothing is left.
fn driven(
    lines: mpsc::Receiver<Bytes>,
    writing: impl Future<Output = ()> + Send + 'static,
) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> {
    let lines = futures_util::stream::unfold(lines, |mut lines| async { Some((lines.recv().await?, lines)) });
    let writing = futures_util::stream::once(writing).filter_map(|()| std::future::ready(None));
    futures_util::stream::select(lines, writing).map(Ok)
}

/// Messages as lines, one on its way at a time.
struct Lines(mpsc::Sender<Bytes>);

impl Sink for Lines {
    async fn send(&mut self, message: &FeedMessage) -> Result<(), Gone> {
        let mut line = serde_json::to_vec(message).map_err(|_| Gone)?;
        line.push(b'\n');
        self.0.send(line.into()).await.map_err(|_| Gone)
    }
}

fn bounded(found: usize, field: &'static str) -> Result<(), Failure> {
    if found <= MAX_INTERESTS {
        return Ok(());
    }
    Err(Failure::invalid(
        field,
        format!("it has {found} views; the most is {MAX_INTERESTS}"),
    ))
}

/// Adds and removes views while a feed is open.
#[utoipa::path(post, path = "/v1/hosts/{host}/interests", operation_id = "SetInterests", tag = "hosts",
    request_body = SetInterests, params(("host" = HostId, Path)),
    responses((status = 204), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn set_interests(
    State(control): State<Control>,
    caller: Caller,
    Path(host): Path<String>,
    Json(set): Json<SetInterests>,
) -> Result<StatusCode, Failure> {
    let host = own(&caller, &host)?;
    bounded(set.add.len(), "add")?;
    match control
        .feed
        .set_interests(host, set.session, set.add, set.remove)
        .await?
    {
        Interest::Set => Ok(StatusCode::NO_CONTENT),
        Interest::NoFeed => {
            let detail = "the host has no open feed with this session; open one";
            Err(Failure::new("no-feed", StatusCode::CONFLICT, "No such feed", detail).field("session"))
        }
        Interest::NotYours(reader) => Err(Failure::invalid(
            "add",
            format!("instance {reader} is not on this host"),
        )),
    }
}

/// Shows a view as a whole.
#[utoipa::path(get, path = "/v1/hosts/{host}/views/{reader}/{instance}", operation_id = "GetFeedView", tag = "hosts",
    params(("host" = HostId, Path), ("reader" = InstanceId, Path), ("instance" = InstanceId, Path)),
    responses((status = 200, body = View), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn get_feed_view(
    State(control): State<Control>,
    caller: Caller,
    Path((host, reader, instance)): Path<(String, String, String)>,
) -> Result<axum::Json<View>, Failure> {
    let host = own(&caller, &host)?;
    let view = ViewId {
        reader: segment("reader", &reader)?,
        instance: segment("instance", &instance)?,
    };
    let at = control.executor.store().head().await?;
    let reader = control.views.instance(at, view.reader).await?;
    if reader.is_none_or(|record| record.host != host) {
        return Err(Failure::invalid(
            "reader",
            format!("instance {} is not on this host", view.reader),
        ));
    }
    Ok(axum::Json(control.views.read(at, view).await?))
}

/// Compares what a host has with what it should have.
#[utoipa::path(post, path = "/v1/hosts/{host}/sync", operation_id = "SyncHost", tag = "hosts",
    request_body = SyncHost, params(("host" = HostId, Path)),
    responses((status = 200, body = HostSync), (status = "default", body = moorline_shared::api::ProblemDetails)))]
pub async fn sync_host(
    State(control): State<Control>,
    caller: Caller,
    Path(host): Path<String>,
    Json(said): Json<SyncHost>,
) -> Result<axum::Json<HostSync>, Failure> {
    let host = own(&caller, &host)?;
    bounded(said.foreign.len(), "foreign")?;
    bounded(said.without.len(), "without")?;
    let is_known = said.revision.epoch == control.executor.store().epoch();
    let reached = timeout(IN_STEP, control.feed.reached(said.revision.n)).await;
    if !is_known || reached.is_err() {
        return Ok(axum::Json(HostSync::Later));
    }
    let held = control.feed.held(host, said.foreign.clone()).await?;
    let now = control.executor.now();
    Ok(axum::Json(control.views.compare(&said, &held, now).await?))
}
