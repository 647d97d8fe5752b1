//! A control plane that says what the test says.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use moorline_shared::api::feed::{FeedItem, FeedMessage, OpenFeed, SetInterests, ViewId};
use moorline_shared::api::hosts::{RegisterHost, ReportState};
use moorline_shared::api::sync::{HostSync, SyncHost};
use tokio::sync::mpsc;

/// What the daemon did at the control plane, and what it is answered.
pub(super) struct Plane {
    pub(super) opened: mpsc::UnboundedSender<Opened>,
    pub(super) interests: mpsc::UnboundedSender<SetInterests>,
    pub(super) reports: mpsc::UnboundedSender<(ReportState, String)>,
    pub(super) views: mpsc::UnboundedSender<ViewId>,
    /// The next answers to reports and to questions for views; then each is granted.
    pub(super) answers: Mutex<VecDeque<StatusCode>>,
    /// The next answers to changes of interests; then each is granted.
    pub(super) interest_answers: Mutex<VecDeque<StatusCode>>,
    pub(super) view: Mutex<Option<FeedItem>>,
    pub(super) syncs: mpsc::UnboundedSender<SyncHost>,
    /// The answer to every host that asks how it fares.
    pub(super) sync: Mutex<HostSync>,
}

/// A session of the feed; what is sent here the host gets.
pub(super) struct Opened {
    pub(super) asked: OpenFeed,
    pub(super) lines: mpsc::UnboundedSender<FeedMessage>,
}

type Shared = State<Arc<Plane>>;

impl Plane {
    pub(super) fn routes(self: Arc<Self>) -> Router {
        Router::new()
            .route("/v1/hosts/{host}", put(register))
            .route("/v1/hosts/{host}/feed", post(feed))
            .route("/v1/hosts/{host}/interests", post(set_interests))
            .route("/v1/hosts/{host}/sync", post(sync))
            .route("/v1/hosts/{host}/views/{reader}/{instance}", get(feed_view))
            .route("/v1/hosts/{host}/reports", post(report))
            .route("/v1/instances/{instance}/data", get(no_data))
            .route("/v1/instances/{instance}/data/{*path}", get(data))
            .with_state(self)
    }

    fn answer(&self) -> StatusCode {
        self.answers.lock().unwrap().pop_front().unwrap_or(StatusCode::OK)
    }
}

fn problem(status: StatusCode) -> Response {
    let body = serde_json::json!({
        "type": "scripted", "title": "Scripted", "status": status.as_u16(), "detail": "as the test says",
    });
    (status, [("content-type", "application/problem+json")], Json(body)).into_response()
}

async fn register(Path(host): Path<String>, Json(offer): Json<RegisterHost>) -> Response {
    let mut body = serde_json::to_value(offer).unwrap();
    let more = serde_json::json!({
        "id": host, "used_vcpus": 0, "used_memory_mib": 0, "instances": 0,
        "created_at": "2026-01-31T12:00:00Z", "revision": "1.1",
    });
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    Json(body).into_response()
}

async fn feed(State(plane): Shared, Json(asked): Json<OpenFeed>) -> Response {
    let (lines, receiver) = mpsc::unbounded_channel();
    plane.opened.send(Opened { asked, lines }).ok();
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
        let message: FeedMessage = receiver.recv().await?;
        let mut line = serde_json::to_vec(&message).unwrap();
        line.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), receiver))
    });
    Body::from_stream(stream).into_response()
}

async fn set_interests(State(plane): Shared, Json(set): Json<SetInterests>) -> Response {
    plane.interests.send(set).ok();
    match plane.interest_answers.lock().unwrap().pop_front() {
        None | Some(StatusCode::NO_CONTENT) => StatusCode::NO_CONTENT.into_response(),
        Some(status) => problem(status),
    }
}

async fn sync(State(plane): Shared, Json(said): Json<SyncHost>) -> Json<HostSync> {
    plane.syncs.send(said).ok();
    Json(plane.sync.lock().unwrap().clone())
}

async fn feed_view(
    State(plane): Shared,
    Path((_, reader, instance)): Path<(String, String, String)>,
) -> Response {
    let [reader, instance] = [reader, instance].map(|id| id.parse().unwrap());
    plane.views.send(ViewId { reader, instance }).ok();
    match plane.answer() {
        StatusCode::OK => match plane.view.lock().unwrap().clone() {
            Some(FeedItem::View(view)) => Json(view).into_response(),
            _ => problem(StatusCode::NOT_FOUND),
        },
        status => problem(status),
    }
}

async fn report(State(plane): Shared, headers: HeaderMap, Json(report): Json<ReportState>) -> Response {
    let key = headers["idempotency-key"].to_str().unwrap().to_owned();
    plane.reports.send((report, key)).ok();
    match plane.answer() {
        StatusCode::OK => {
            let operation = format!("op-{}", "0".repeat(64));
            Json(serde_json::json!({ "revision": "1.2", "operation": operation })).into_response()
        }
        status => problem(status),
    }
}

/// No instance has entries that can be listed.
async fn no_data() -> Response {
    Json(serde_json::json!({ "entries": [], "revision": "1.5" })).into_response()
}

/// Entries: `shared` is granted, everything else is answered with the status that it names.
async fn data(headers: HeaderMap, Path((_, at)): Path<(String, String)>) -> Response {
    assert!(headers.contains_key("moorline-instance"));
    if at != "shared" {
        return problem(StatusCode::from_bytes(at.as_bytes()).unwrap());
    }
    Json(serde_json::json!({
        "path": at, "revision": "1.5", "version": 1, "content_type": "text/plain", "length": 2, "value": "up",
        "origin": "customer", "visibility": "private", "changed_by": "user:a", "changed_at": "2026-01-31T12:00:00Z",
    }))
    .into_response()
}
