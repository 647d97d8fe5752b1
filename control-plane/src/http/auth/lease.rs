//! Answers that go on for as long as their caller may have them.
//!
//! A watch is let in once and then tells for hours. One that was asked for with a session's token ends when that session
//! does, or when its user's role is another: within half a second, and before anything more is told.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::Response;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::time::interval;

use super::bearer;
use crate::http::Control;
use crate::identity::sessions::Standing;
use crate::identity::token::{Grant, SessionId};
use crate::model::Caller;
use moorline_shared::Principal;

/// How often it is looked whether a silent answer may go on.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What an answer that goes on depends on.
struct Lease {
    control: Control,
    session: SessionId,
    grant: Grant,
    caller: Caller,
}

impl Lease {
    fn stands(&self) -> bool {
        let sessions = self.control.tokens.sessions();
        let now = self.control.executor.now();
        let role = match &self.caller.principal {
            Principal::User(name) => sessions.role(name, &self.caller.account),
            _ => None,
        };
        role == Some(self.caller.role)
            && sessions.standing_of_grant(&self.session, self.grant, now) == Standing::Stands
    }
}

/// Ends an answer that is a stream of lines once its caller's session does.
pub async fn hold(State(control): State<Control>, request: Request, next: Next) -> Response {
    let known = bearer::session(&control, request.headers());
    let response = next.run(request).await;
    let goes_on = response.headers().get(CONTENT_TYPE);
    match known {
        Some((session, grant, caller)) if goes_on.is_some_and(|kind| kind == "application/x-ndjson") => {
            let lease = Lease {
                control,
                session,
                grant,
                caller,
            };
            response.map(|body| Body::from_stream(held(lease, body)))
        }
        _ => response,
    }
}

/// The body's pieces, as long as the lease stands.
fn held(
    lease: Lease,
    body: Body,
) -> impl futures_util::Stream<Item = Result<axum::body::Bytes, axum::Error>> {
    let looks = stream::unfold(interval(LOOK_EVERY), |mut interval| async {
        interval.tick().await;
        Some(((), interval))
    });
    let pieces = body.into_data_stream().map(Some).chain(stream::iter([None]));
    let pieces = pieces.map(Some);
    let looks = looks.map(|()| None);
    stream::select(pieces, looks)
        .take_while(move |_| std::future::ready(lease.stands()))
        .scan((), |(), turn| {
            std::future::ready(match turn {
                // The body's end is the answer's.
                Some(None) => None,
                Some(Some(piece)) => Some(Some(piece)),
                None => Some(None),
            })
        })
        .filter_map(std::future::ready)
}
