//! Answers that go on for as long as their caller may have them.
//!
//! A watch is let in once and then tells for hours. One that was asked for with a session's token ends when that session
//! does, or when its user's role is another: within half a second, and before anything more is told.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use moorline_shared::Principal;
use tokio::time::{Interval, interval};

use super::bearer;
use crate::http::Control;
use crate::http::problem::Failure;
use crate::identity::sessions::Standing;
use crate::identity::token::{Grant, SessionId};
use crate::model::Caller;

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
    fn of(control: Control, token: &str) -> Result<Self, Failure> {
        let (session, grant, caller) = bearer::session(&control, token)?;
        Ok(Self {
            control,
            session,
            grant,
            caller,
        })
    }

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

/// An answer that goes on, with what it depends on.
struct Held {
    lease: Lease,
    pieces: BodyDataStream,
    looks: Interval,
}

impl Held {
    /// The next piece, as long as the lease stands.
    async fn next(mut self) -> Option<(Result<Bytes, axum::Error>, Self)> {
        loop {
            // Cancel-safe: a piece that wasn't taken stays in the body, and a look that wasn't taken comes again.
            let piece = tokio::select! {
                piece = self.pieces.next() => Some(piece?),
                _ = self.looks.tick() => None,
            };
            if !self.lease.stands() {
                return None;
            }
            if let Some(piece) = piece {
                return Some((piece, self));
            }
        }
    }
}

/// Ends an answer that is a stream of lines once its caller's session does.
pub async fn hold(State(control): State<Control>, request: Request, next: Next) -> Response {
    let shown = request.headers().get(AUTHORIZATION).cloned();
    let response = next.run(request).await;
    let kind = response.headers().get(CONTENT_TYPE);
    // Who asked is looked at once more for what goes on alone: all other answers are given by now.
    if kind.is_none_or(|kind| kind != "application/x-ndjson") {
        return response;
    }
    match shown.as_ref().and_then(bearer::token) {
        None => response,
        Some(token) => match Lease::of(control, token) {
            Ok(lease) => response.map(|body| {
                let held = Held {
                    lease,
                    pieces: body.into_data_stream(),
                    looks: interval(LOOK_EVERY),
                };
                Body::from_stream(stream::unfold(held, Held::next))
            }),
            Err(failure) => failure.into_response(),
        },
    }
}
