//! The surface through a real socket, with a real link behind it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use moorline_shared::agent::{EntryReading, Freshness, LinkState, Listing, Status, WatchEvent};
use moorline_shared::api::ProblemDetails;
use moorline_shared::{Revision, link::body::Mirrored};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use super::Settings;
use crate::test_host::{Answers, OTHER, OWN, Order, Rig, entry, run};

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
        let stream = UnixStream::connect(&rig.socket).await.unwrap();
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
        let mut client = Client::connect(rig).await;
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

#[test]
fn an_entry_is_its_bytes_with_what_is_known_about_them() {
    run(async {
        let rig = Rig::linked().await;
        let answer = get(&rig, "/v1/data/a").await;
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"one"[..]));
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
        assert_eq!(
            (answer.header("etag"), answer.header("moorline-freshness")),
            ("\"1.2\"", "fresh")
        );
        assert!(answer.header("moorline-age-ms").parse::<u64>().unwrap() < 30_000);
        // The same by the id that the host gives this guest, and without a body for HEAD.
        let named = get(&rig, &format!("/v1/instances/{OWN}/data/a")).await;
        assert_eq!(&named.body[..], b"one");
        let head = Client::connect(&rig)
            .await
            .ask(request("HEAD", "/v1/data/a", ""))
            .await;
        assert_eq!((head.header("content-length"), head.body.len()), ("3", 0));

        let reading: EntryReading = get(&rig, "/v1/entries/a").await.json();
        assert_eq!(
            (reading.revision, reading.length, reading.value.text()),
            (revision(2), 3, Some("one"))
        );
        assert_eq!(reading.freshness, Freshness::Fresh);
    });
}

#[test]
fn what_the_client_has_is_not_sent_again() {
    run(async {
        let rig = Rig::linked().await;
        let mut client = Client::connect(&rig).await;
        for (known, status) in [("\"1.2\"", 304), ("W/\"1.2\"", 304), ("*", 304), ("\"1.1\"", 200)] {
            let mut request = request("GET", "/v1/data/a", "");
            request
                .headers_mut()
                .insert("if-none-match", known.parse().unwrap());
            let answer = client.ask(request).await;
            assert_eq!(
                (answer.status.as_u16(), answer.header("etag")),
                (status, "\"1.2\""),
                "{known}"
            );
        }
    });
}

#[test]
fn listings_show_one_state() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.change(&[
            ("net/mac", Some(b"m")),
            ("net/ip", Some(b"\xff")),
            ("network", Some(b"n")),
        ]);
        rig.mirrored(3).await;
        let paths = |listing: &Listing| {
            listing
                .entries
                .iter()
                .map(|e| e.path.to_string())
                .collect::<Vec<_>>()
        };
        for target in [
            "/v1/data/net/",
            "/v1/data?prefix=net",
            "/v1/data/net?recursive=true",
        ] {
            let answer = get(&rig, target).await;
            let listing: Listing = answer.json();
            assert_eq!(
                (paths(&listing), listing.revision),
                (vec!["net/ip".into(), "net/mac".into()], revision(3))
            );
            assert_eq!(answer.header("etag"), "\"1.3\"");
            assert!(listing.entries.iter().all(|entry| entry.value.is_none()));
        }
        let all: Listing = get(&rig, "/v1/data?values=true").await.json();
        assert_eq!(paths(&all), ["a", "net/ip", "net/mac", "network"]);
        assert_eq!(all.entries[1].value.as_ref().unwrap().bytes()[..], b"\xff"[..]);
    });
}

#[test]
fn a_long_poll_answers_with_the_change() {
    run(async {
        let rig = Rig::linked().await;
        let mut client = Client::connect(&rig).await;
        let target = "/v1/data/a?wait_for_change=true&last_etag=%221.2%22&timeout_sec=30";
        let polling = client.ask(request("GET", target, ""));
        let changing = async {
            rig.host.change(&[("b", Some(b"another"))]);
            rig.mirrored(3).await;
            rig.host.change(&[("a", Some(b"two"))]);
        };
        let (answer, ()) = tokio::join!(polling, changing);
        assert_eq!(
            (&answer.body[..], answer.header("etag")),
            (&b"two"[..], "\"1.4\"")
        );
        // What the client has not is answered at once.
        let at_once = client.ask(request("GET", target, "")).await;
        assert_eq!(at_once.header("etag"), "\"1.4\"");
    });
}

#[test]
fn a_long_poll_for_what_is_not_there_sees_it_come_and_go() {
    run(async {
        let rig = Rig::linked().await;
        let mut client = Client::connect(&rig).await;
        let absent = client.ask(request("GET", "/v1/data/new", "")).await;
        assert_eq!(
            (absent.problem(), absent.header("etag")),
            ((404, "entry-not-found".into()), "\"0.0\"")
        );
        let polling = client.ask(request(
            "GET",
            "/v1/data/new?wait_for_change=true&last_etag=0.0",
            "",
        ));
        let changing = async { rig.host.change(&[("new", Some(b"here"))]) };
        let (answer, _) = tokio::join!(polling, changing);
        assert_eq!(&answer.body[..], b"here");
        let polling = client.ask(request("GET", "/v1/data/new?wait_for_change=true", ""));
        let changing = async {
            rig.host.change(&[("new", None)]);
        };
        let (answer, ()) = tokio::join!(polling, changing);
        assert_eq!((answer.status.as_u16(), answer.header("etag")), (404, "\"1.4\""));
    });
}

#[test]
fn a_long_poll_that_runs_out_shows_the_present_state() {
    run(async {
        let rig = Rig::linked().await;
        let begun = Instant::now();
        let answer = get(&rig, "/v1/data/a?wait_for_change=true&timeout_sec=1").await;
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"one"[..]));
        assert!(begun.elapsed() >= Duration::from_secs(1));
    });
}

#[test]
fn a_listing_waits_for_a_change_below_its_prefix() {
    run(async {
        let rig = Rig::linked().await;
        let mut client = Client::connect(&rig).await;
        let polling = client.ask(request(
            "GET",
            "/v1/data/net/?wait_for_change=true&last_etag=1.2",
            "",
        ));
        let changing = async {
            rig.host.change(&[("a", Some(b"two"))]);
            rig.mirrored(3).await;
            rig.host.change(&[("net/ip", Some(b"1"))]);
        };
        let (answer, ()) = tokio::join!(polling, changing);
        assert_eq!(answer.json::<Listing>().revision, revision(4));
    });
}

#[test]
fn an_expired_entry_is_fetched_or_refused() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.with(|state| {
            state.revision += 1;
            let short = Mirrored {
                valid_for_ms: Some(0),
                ..entry(state.revision, b"short")
            };
            state.own.insert("short".parse().unwrap(), short);
        });
        rig.mirrored(3).await;
        let fetched = get(&rig, "/v1/data/short").await;
        assert_eq!(
            (&fetched.body[..], fetched.header("moorline-freshness")),
            (&b"short"[..], "stale")
        );
        assert_eq!(fetched.header("moorline-age-ms"), "5");
        assert_eq!(rig.host.with(|state| state.asked.clone()), ["short"]);
        let all: Listing = get(&rig, "/v1/data").await.json();
        assert_eq!(all.entries.len(), 1, "what has expired is not listed");
    });
}

#[test]
fn what_is_too_old_is_asked_of_the_host() {
    run(async {
        let rig = Rig::linked().await;
        let heard = rig.mirror.read().age(crate::platform::now()).unwrap();
        // Older than nothing at all, once a millisecond has passed.
        while rig.mirror.read().age(crate::platform::now()).unwrap().ms <= heard.ms {
            tokio::task::yield_now().await;
        }
        let answer = get(&rig, "/v1/data/a?max_age_ms=0").await;
        assert_eq!(
            (&answer.body[..], answer.header("moorline-age-ms")),
            (&b"one"[..], "5")
        );
        let answer = get(&rig, "/v1/data/a?max_age_ms=30000").await;
        assert_eq!(answer.header("moorline-freshness"), "fresh");
    });
}

#[test]
fn without_data_reads_wait_and_then_say_so() {
    run(async {
        let settings = Settings {
            first_wait: Duration::from_millis(50),
            ..Settings::default()
        };
        let mut rig = Rig::without_host(settings).await;
        let answer = get(&rig, "/v1/data/a").await;
        assert_eq!(
            (answer.problem(), answer.header("retry-after")),
            ((503, "not-ready".into()), "1")
        );
        let status: Status = get(&rig, "/v1/status").await.json();
        assert_eq!((status.link.state, status.mirror), (LinkState::Connecting, None));
        let foreign = get(&rig, &format!("/v1/instances/{OTHER}/data/a")).await;
        assert_eq!(foreign.problem(), (503, "host-unavailable".into()));
        rig.start_host();
        rig.mirrored(1).await;
        let status: Status = get(&rig, "/v1/status").await.json();
        assert_eq!(status.mirror.unwrap().revision, revision(1));
        assert_eq!(status.identity.unwrap().instance, OWN);
    });
}

#[test]
fn a_watch_brings_whole_batches_from_a_bookmark_on() {
    run(async {
        let rig = Rig::linked().await;
        let mut all = Events::open(&rig, "/v1/watch").await;
        let mut net = Events::open(&rig, "/v1/watch?prefix=net").await;
        assert_eq!(
            all.next().await,
            Some(WatchEvent::Bookmark {
                revision: revision(2)
            })
        );
        assert_eq!(
            net.next().await,
            Some(WatchEvent::Bookmark {
                revision: revision(2)
            })
        );
        rig.host.change(&[("a", Some(b"two")), ("net/ip", Some(b"1"))]);
        assert_eq!(
            all.changed().await,
            (revision(3), vec!["a".into(), "net/ip".into()])
        );
        assert_eq!(net.changed().await, (revision(3), vec!["net/ip".into()]));
        rig.host.change(&[("a", None)]);
        assert_eq!(
            net.next().await,
            Some(WatchEvent::Bookmark {
                revision: revision(4)
            })
        );
        // Resumed where it was left, nothing is left out.
        let mut again = Events::open(&rig, "/v1/watch?after=1.2").await;
        assert_eq!(again.changed().await.0, revision(3));
        assert_eq!(again.changed().await, (revision(4), vec!["a".into()]));
        for lost in ["0.1", "1.99"] {
            let mut lost = Events::open(&rig, &format!("/v1/watch?after={lost}")).await;
            assert_eq!(
                lost.next().await,
                Some(WatchEvent::Resync {
                    revision: revision(2)
                })
            );
            assert_eq!(lost.next().await, None);
        }
    });
}

#[test]
fn a_slow_watcher_is_told_to_resync() {
    run(async {
        let rig = Rig::linked().await;
        let mut events = Events::open(&rig, "/v1/watch").await;
        let mut seen = match events.next().await {
            Some(WatchEvent::Bookmark { revision }) => revision,
            other => panic!("{other:?}"),
        };
        let value = vec![b'x'; 60_000];
        for n in 3..40 {
            rig.host.change(&[("a", Some(&value))]);
            rig.mirrored(n).await;
        }
        loop {
            match events.next().await {
                Some(WatchEvent::Changes { revision, .. }) => {
                    assert_eq!(revision.n, seen.n + 1, "a change was left out in silence");
                    seen = revision;
                }
                Some(WatchEvent::Resync { revision }) => break assert!(revision > seen),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(events.next().await, None);
    });
}

#[test]
fn a_lost_link_is_not_seen_by_a_watch_of_ones_own() {
    run(async {
        let rig = Rig::linked().await;
        let mut events = Events::open(&rig, "/v1/watch?after=1.2").await;
        rig.host.order(Order::Cut);
        rig.host.change(&[("a", Some(b"meanwhile"))]);
        assert_eq!(events.changed().await, (revision(3), vec!["a".into()]));
    });
}

#[test]
fn another_instances_data_comes_through_the_host() {
    run(async {
        let rig = Rig::linked().await;
        for path in ["open/x", "open/y", "open/z"] {
            rig.host.change_other(path, Some(b"theirs"));
        }
        rig.host.change_other("shut/x", Some(b"secret"));
        let of = format!("/v1/instances/{OTHER}");
        let answer = get(&rig, &format!("{of}/data/open/x")).await;
        assert_eq!(
            (&answer.body[..], answer.header("etag")),
            (&b"theirs"[..], "\"1.2\"")
        );
        assert_eq!(
            (
                answer.header("moorline-age-ms"),
                answer.header("moorline-freshness")
            ),
            ("5", "stale")
        );
        let reading: EntryReading = get(&rig, &format!("{of}/entries/open/x")).await.json();
        assert_eq!(reading.value.text(), Some("theirs"));
        assert_eq!(
            get(&rig, &format!("{of}/data/shut/x")).await.problem(),
            (403, "access-denied".into())
        );
        assert_eq!(get(&rig, &format!("{of}/data/open/none")).await.problem().0, 404);
        let listing: Listing = get(&rig, &format!("{of}/data?prefix=open")).await.json();
        assert_eq!(listing.entries.len(), 3, "both pages");
        assert_eq!(
            get(&rig, &format!("{of}/watch?prefix=shut")).await.problem().0,
            403
        );

        rig.host.with(|state| state.answers = Answers::Busy);
        let busy = get(&rig, &format!("{of}/data/open/x")).await;
        assert_eq!((busy.problem().0, busy.header("retry-after")), (503, "3"));
    });
}

#[test]
fn another_instances_changes_are_watched_and_waited_for() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.change_other("open/x", Some(b"1"));
        let of = format!("/v1/instances/{OTHER}");
        let mut events = Events::open(&rig, &format!("{of}/watch?prefix=open")).await;
        assert_eq!(
            events.next().await,
            Some(WatchEvent::Bookmark {
                revision: revision(2)
            })
        );
        let mut client = Client::connect(&rig).await;
        let polling = client.ask(request(
            "GET",
            &format!("{of}/data/open/x?wait_for_change=true"),
            "",
        ));
        let changing = async {
            // Once the poll's own watch is there, beside the one above.
            rig.host.until(|state| (state.watches == 2).then_some(())).await;
            rig.host.change_other("open/x", Some(b"2"));
        };
        let (answer, ()) = tokio::join!(polling, changing);
        assert_eq!(&answer.body[..], b"2");
        assert_eq!(events.changed().await, (revision(3), vec!["open/x".into()]));
        rig.host.order(Order::Cut);
        assert!(matches!(events.next().await, Some(WatchEvent::Resync { .. })));
        assert_eq!(events.next().await, None);
    });
}

#[test]
fn changes_go_to_the_control_plane_and_back_into_the_mirror() {
    run(async {
        let rig = Rig::linked().await;
        let mut client = Client::connect(&rig).await;
        let mut put = request("PUT", "/v1/data/a?ttl=60&visibility=public", "written");
        put.headers_mut()
            .insert("content-type", "text/x-mine".parse().unwrap());
        put.headers_mut().insert("if-match", "\"1.2\"".parse().unwrap());
        put.headers_mut().insert("idempotency-key", "k1".parse().unwrap());
        put.headers_mut()
            .insert("cookie", "none of theirs".parse().unwrap());
        let answer = client.ask(put).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("moorline-operation")),
            (200, "op-1")
        );
        assert_eq!(answer.header("x-inner"), "");
        assert_eq!(
            &client.ask(request("GET", "/v1/data/a", "")).await.body[..],
            b"written"
        );

        let relay = rig.host.with(|state| state.relays.remove(0));
        assert_eq!(
            (relay.method.as_str(), relay.target),
            ("PUT", format!("/v1/instances/{OWN}/data/a"))
        );
        let headers: Vec<_> = relay
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            headers,
            [
                ("if-match", "\"1.2\""),
                ("idempotency-key", "k1"),
                ("content-type", "application/json")
            ]
        );
        let body: serde_json::Value = serde_json::from_slice(relay.body.bytes()).unwrap();
        let expected = serde_json::json!({
            "value": "written", "content_type": "text/x-mine", "visibility": "public", "ttl": 60
        });
        assert_eq!(body, expected);

        let refused = client
            .ask(request(
                "DELETE",
                &format!("/v1/instances/{OTHER}/data/open/x"),
                "",
            ))
            .await;
        assert_eq!(refused.status, 403);
        let relay = rig.host.with(|state| state.relays.remove(0));
        assert_eq!((relay.method.as_str(), relay.body.len()), ("DELETE", 0));
        client.ask(request("POST", "/v1/data/log", "line\n")).await;
        let relay = rig.host.with(|state| state.relays.remove(0));
        assert_eq!(
            (relay.method.as_str(), relay.body.text()),
            ("POST", Some("{\"value\":\"line\\n\"}"))
        );
    });
}

#[test]
fn values_that_text_would_blow_up_go_in_base64() {
    run(async {
        let rig = Rig::linked().await;
        let mut client = Client::connect(&rig).await;
        client
            .ask(request("PUT", "/v1/data/ctl", vec![1_u8; 256 * 1024]))
            .await;
        let relay = rig.host.with(|state| state.relays.remove(0));
        assert!(relay.body.text().unwrap().contains("base64"));
        let too_large = client
            .ask(request("PUT", "/v1/data/ctl", vec![b'x'; 256 * 1024 + 1]))
            .await;
        assert_eq!(too_large.problem(), (413, "too-large".into()));
    });
}

#[test]
fn wrong_requests_are_told_what_is_wrong() {
    run(async {
        let rig = Rig::linked().await;
        let mut client = Client::connect(&rig).await;
        for (method, target, status, says) in [
            ("GET", "/", 404, "/v1/status"),
            ("GET", "/v2/data/a", 404, "/v1/status"),
            ("GET", "/v1/data/..", 400, "'..' is not allowed"),
            ("GET", "/v1/data/a%2fb", 400, "0x25"),
            ("GET", "/v1/data/a//b", 400, "empty segment"),
            ("GET", "/v1/data/-x", 400, "'-'"),
            ("GET", "/v1/data/a?colour=red", 400, "'colour'"),
            ("GET", "/v1/data/a?timeout_sec=301", 400, "1 to 300"),
            ("GET", "/v1/data?prefix=..", 400, "'..' is not allowed"),
            ("GET", "/v1/data/a/?prefix=b", 400, "already says"),
            ("GET", "/v1/watch?after=x", 400, "EPOCH.N"),
            ("GET", "/v1/instances/i-1/data/a", 400, "i-1"),
            ("PUT", "/v1/data/a?ttl=0", 400, "0"),
            ("PUT", "/v1/data/", 400, "empty"),
            ("PUT", "/v1/data/a?visibility=x", 400, "x"),
        ] {
            let answer = client.ask(request(method, target, "")).await;
            let (got, _) = answer.problem();
            let detail = answer.json::<ProblemDetails>().detail;
            assert!(got == status && detail.contains(says), "{target}: {got} {detail}");
        }
        for (method, target, allowed) in [
            ("PATCH", "/v1/data/a", "GET, HEAD, PUT, POST, DELETE"),
            ("POST", "/v1/status", "GET, HEAD"),
            ("DELETE", "/v1/entries/a", "GET, HEAD"),
        ] {
            let answer = client.ask(request(method, target, "")).await;
            assert_eq!((answer.problem().0, answer.header("allow")), (405, allowed));
        }
    });
}

#[test]
fn long_heads_are_refused() {
    run(async {
        let rig = Rig::linked().await;
        let long = format!("GET /v1/data/{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(10_000));
        let answer = raw(&rig, long.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        let headers = "x-y: z\r\n".repeat(100);
        let answer = raw(
            &rig,
            format!("GET /v1/data/a HTTP/1.1\r\n{headers}\r\n").as_bytes(),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
        let answer = raw(&rig, b"\0\x01\x02 nonsense\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert_eq!(get(&rig, "/v1/data/a").await.status, 200);
    });
}

#[test]
fn requests_may_follow_each_other_before_their_answers() {
    run(async {
        let rig = Rig::linked().await;
        let one = "GET /v1/data/a HTTP/1.1\r\nhost: a\r\n\r\n";
        let last = "GET /v1/data/a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let answer = raw(&rig, format!("{}{last}", one.repeat(50)).as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 51);
        assert_eq!(answer.matches("\r\n\r\none").count(), 51);
    });
}

#[test]
fn connections_are_bounded() {
    run(async {
        let rig = Rig::linked_with(Settings {
            connections: 2,
            ..Settings::default()
        })
        .await;
        let (mut one, two) = (Client::connect(&rig).await, Client::connect(&rig).await);
        one.ask(request("GET", "/v1/data/a", "")).await;
        let refused = raw(&rig, b"").await;
        assert!(
            refused.starts_with("HTTP/1.1 503") && refused.contains("too-many-connections"),
            "{refused}"
        );
        drop(two);
        // Room is made when the agent notices; until then it goes on to say no.
        while UnixStream::connect(&rig.socket)
            .await
            .unwrap()
            .read(&mut [0])
            .now_or_none()
            .await
        {}
        assert_eq!(one.ask(request("GET", "/v1/data/a", "")).await.status, 200);
    });
}

/// Whether a read is answered before the client has said anything: a connection that is turned away.
trait NowOrNone {
    async fn now_or_none(self) -> bool;
}

impl<F: Future<Output = std::io::Result<usize>>> NowOrNone for F {
    async fn now_or_none(self) -> bool {
        tokio::time::timeout(Duration::from_millis(20), self)
            .await
            .is_ok()
    }
}

#[test]
fn connections_that_do_nothing_end() {
    run(async {
        let rig = Rig::linked_with(Settings {
            patience: Duration::from_millis(50),
            ..Settings::default()
        })
        .await;
        assert_eq!(raw(&rig, b"").await, "");
        // Half a head, and a body that never comes.
        assert_eq!(raw(&rig, b"GET /v1/da").await, "");
        let slow = raw(
            &rig,
            b"PUT /v1/data/a HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nab",
        )
        .await;
        assert!(slow.starts_with("HTTP/1.1 408"), "{slow}");
        // One that waits for a change is not idle.
        let waiting = get(&rig, "/v1/data/a?wait_for_change=true&timeout_sec=1").await;
        assert_eq!(waiting.status, 200);
    });
}

#[test]
fn a_reader_that_takes_nothing_ends() {
    run(async {
        let rig = Rig::linked_with(Settings {
            patience: Duration::from_millis(50),
            ..Settings::default()
        })
        .await;
        rig.host.change(&[("large", Some(&vec![b'x'; 250_000]))]);
        rig.mirrored(3).await;
        let mut stream = UnixStream::connect(&rig.socket).await.unwrap();
        let ask = "GET /v1/data/large HTTP/1.1\r\nhost: a\r\n\r\n".repeat(8);
        stream.write_all(ask.as_bytes()).await.unwrap();
        // It takes nothing until the agent has hung up, which a write after that tells.
        while stream.write_all(b"GET ").await.is_ok() {
            tokio::task::yield_now().await;
            if stream.try_write(b"").is_err() {
                break;
            }
        }
    });
}

#[test]
fn what_is_under_way_is_answered_when_the_agent_stops() {
    run(async {
        let mut rig = Rig::linked().await;
        let mut client = Client::connect(&rig).await;
        let polling = client.ask(request(
            "GET",
            "/v1/data/a?wait_for_change=true&last_etag=1.2",
            "",
        ));
        let stopping = async {
            rig.host.change(&[("a", Some(b"two"))]);
            rig.mirrored(3).await;
            rig.stop.cancel();
        };
        let (answer, ()) = tokio::join!(polling, stopping);
        assert_eq!(&answer.body[..], b"two");
        for _ in 0..2 {
            rig.tasks.join_next().await.unwrap().unwrap();
        }
        assert!(UnixStream::connect(&rig.socket).await.is_err());
    });
}

#[test]
fn a_socket_left_behind_is_replaced_and_a_served_one_is_not() {
    run(async {
        let rig = Rig::linked().await;
        assert!(matches!(
            super::bind(&rig.socket).await,
            Err(super::BindError::Taken { .. })
        ));
        let left = rig.folder().join("left.sock");
        drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
        super::bind(&left).await.unwrap();
        let file = rig.folder().join("file");
        std::fs::create_dir(&file).unwrap();
        assert!(matches!(
            super::bind(&file).await,
            Err(super::BindError::Bind { .. })
        ));
    });
}
