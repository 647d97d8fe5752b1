//! Requests' bodies: how much memory all of them together may take, and how long one may take to come.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::Body as _;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::MAX_BODY_BYTES;
use super::problem::Failure;

/// For a body to come whole: the longest at 300 kB a second.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// All bodies that are read or worked on at once, in bytes: sixteen of the longest.
const BUDGET_BYTES: usize = 16 * MAX_BODY_BYTES;
/// What the budget is counted in, in bytes.
const UNIT: usize = 1024;

/// The longest body of a request that anybody may make, in bytes.
pub const MAX_STRANGERS_BODY_BYTES: usize = 16 * 1024;

/// The memory that bodies may take together.
#[derive(Clone, Debug)]
pub struct Budget {
    room: Arc<Semaphore>,
    most: usize,
}

impl Budget {
    /// For requests whose caller is known before their body is read.
    pub fn of_callers() -> Self {
        Self::of(BUDGET_BYTES, MAX_BODY_BYTES)
    }

    /// For requests that anybody may make. Whoever takes all of this keeps nobody from the rest.
    pub fn of_strangers() -> Self {
        Self::of(512 * MAX_STRANGERS_BODY_BYTES, MAX_STRANGERS_BODY_BYTES)
    }

    /// So many bytes, and the most of each body.
    fn of(bytes: usize, most: usize) -> Self {
        Self {
            room: Arc::new(Semaphore::new(bytes / UNIT)),
            most,
        }
    }

    /// Has a request wait until there is room for its body, which it keeps until it is answered.
    ///
    /// Nobody waits for ever: a body must come in [`PATIENCE`], and one whose caller is unknown is not read.
    pub async fn admit(State(budget): State<Self>, request: Request, next: Next) -> Response {
        let most = budget.most as u64;
        let length = request.body().size_hint().upper().unwrap_or(most).min(most);
        let units = u32::try_from(length.div_ceil(UNIT as u64)).unwrap_or(u32::MAX);
        // The semaphore is never closed, and without a body there is nothing to wait for.
        let _room = match units {
            0 => None,
            units => budget.room.acquire_many_owned(units).await.ok(),
        };
        next.run(request).await
    }
}

/// What `reading` a body comes to, or a problem if it takes too long.
pub async fn in_time<T>(reading: impl Future<Output = T>) -> Result<T, Failure> {
    timeout(PATIENCE, reading).await.map_err(|_| {
        let detail = format!(
            "the body did not come within {} seconds; send it again",
            PATIENCE.as_secs()
        );
        Failure::new(
            "body-too-slow",
            StatusCode::REQUEST_TIMEOUT,
            "The body did not come in time",
            detail,
        )
    })
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn_with_state;
    use axum::routing::post;
    use bytes::Bytes;
    use tower::ServiceExt as _;

    use super::*;
    use crate::http::extract::Json;

    fn routes(budget: usize) -> Router {
        let answer = async |Json(text): Json<String>| text;
        let budget = from_fn_with_state(Budget::of(budget, MAX_BODY_BYTES), Budget::admit);
        Router::new().route("/", post(answer)).layer(budget)
    }

    async fn send(routes: &Router, body: Body) -> StatusCode {
        let request = Request::post("/").body(body).unwrap();
        routes.clone().oneshot(request).await.unwrap().status()
    }

    fn endless() -> Body {
        Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_gives_its_room_back() {
        let routes = routes(MAX_BODY_BYTES);
        let (slow, quick) = tokio::join!(send(&routes, endless()), async {
            let begun = tokio::time::Instant::now();
            let status = send(&routes, Body::from("\"x\"")).await;
            (status, begun.elapsed())
        });
        assert_eq!(slow, StatusCode::REQUEST_TIMEOUT);
        assert_eq!(quick.0, StatusCode::OK);
        assert!(
            quick.1 >= PATIENCE,
            "it found room beside a body of the most bytes"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn short_bodies_need_not_wait_for_each_other() {
        let routes = routes(MAX_BODY_BYTES + UNIT);
        let begun = tokio::time::Instant::now();
        tokio::select! {
            slow = send(&routes, endless()) => panic!("{slow} before the short one"),
            status = send(&routes, Body::from("\"x\"")) => assert_eq!(status, StatusCode::OK),
        }
        assert!(begun.elapsed() < PATIENCE);
    }
}
