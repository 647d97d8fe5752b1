//! The surface through a real socket, with a real link behind it.

mod access;
mod changes;
mod credentials;
mod doubt;
mod kept;
mod others;
mod reads;
mod secrets;
mod trouble;
mod watches;

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use moorline_shared::Revision;
use moorline_shared::agent::{EntryReading, Freshness, LinkState, Listing, Status, WatchEvent};
use moorline_shared::api::ProblemDetails;
use moorline_shared::link::body::{self, Mirrored};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::local::Settings;
use crate::test_host::{Answers, OTHER, OWN, Order, Rig, entry, run, settings};

/// An answer, read whole.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// The problem's status and type; both say the same as the status line.
    fn problem(&self) -> (u16, String) {
        let problem: ProblemDetails = self.json();
        assert_eq!(
            (problem.status, self.header("content-type")),
            (self.status.as_u16(), "application/problem+json")
        );
        assert!(!problem.detail.is_empty());
        (problem.status, problem.kind.into_owned())
    }
}

/// A connection with its task.
struct Client {
    sender: http1::SendRequest<Full<Bytes>>,
    _task: JoinSet<()>,
}

impl Client {
    async fn connect(rig: &Rig) -> Self {
        Self::connect_to(&rig.socket).await
    }

    async fn connect_to(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        let mut task = JoinSet::new();
        task.spawn_local(async move { drop(connection.await) });
        Self { sender, _task: task }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Response<Incoming> {
        self.sender.ready().await.unwrap();
        self.sender.send_request(request).await.unwrap()
    }

    async fn ask(&mut self, request: Request<Full<Bytes>>) -> Answer {
        let (head, body) = self.send(request).await.into_parts();
        Answer {
            status: head.status,
            headers: head.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }
}

fn request(method: &str, target: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(target)
        .header("host", "agent")
        .body(Full::new(body.into()))
        .unwrap()
}

async fn get(rig: &Rig, target: &str) -> Answer {
    Client::connect(rig).await.ask(request("GET", target, "")).await
}

/// Writes bytes as they are and reads until the agent closes.
async fn raw(rig: &Rig, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(&rig.socket).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A connection that is cut counts as closed.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

/// A stream of events.
struct Events {
    body: Incoming,
    rest: Vec<u8>,
    _client: Client,
}

impl Events {
    async fn open(rig: &Rig, target: &str) -> Self {
        Self::of(Client::connect(rig).await, target).await
    }

    async fn of(mut client: Client, target: &str) -> Self {
        let response = client.send(request("GET", target, "")).await;
        assert_eq!(response.status(), 200);
        Self {
            body: response.into_body(),
            rest: Vec::new(),
            _client: client,
        }
    }

    async fn next(&mut self) -> Option<WatchEvent> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            self.rest.extend_from_slice(&frame.into_data().unwrap());
        }
    }

    /// The paths of the next event, which must be changes.
    async fn changed(&mut self) -> (Revision, Vec<String>) {
        match self.next().await {
            Some(WatchEvent::Changes { revision, changes }) => (
                revision,
                changes
                    .into_iter()
                    .map(|change| change.path.to_string())
                    .collect(),
            ),
            other => panic!("{other:?}"),
        }
    }
}

fn revision(n: u64) -> Revision {
    Revision::new(1, n)
}
