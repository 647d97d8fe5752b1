//! Streams over HTTP/2, cut anywhere, too long, broken off and taken up again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::Version;
use axum::routing::{get, post};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use moorline_client::{ClientError, Followed};
use moorline_shared::api::data::{WatchEvent, WatchQuery};
use moorline_shared::api::feed::{FeedMessage, OpenFeed};
use moorline_shared::{InstanceId, PathPrefix, Revision};

use crate::server::{Server, client, serve};

const ID: InstanceId = InstanceId::from_bytes([7; 16]);
const FEED: &str = concat!(
    r#"{"message": "hello", "host": "h1", "session": 3, "deployment": "d", "bookmark_seconds": 5}"#,
    "\n\r\n",
    r#"{"message": "batch", "from": "1.3", "to": "1.4", "items": [{"item": "instance_gone", "instance": "#,
    r#""i-07070707070707070707070707070707"}]}"#,
    "\r\n",
    r#"{"message": "bookmark", "revision": "1.5"}"#,
    "\n",
);

fn pieces(text: &str, length: usize) -> Body {
    let pieces: Vec<_> = text
        .as_bytes()
        .chunks(length)
        .map(Bytes::copy_from_slice)
        .collect();
    Body::from_stream(stream::iter(pieces).map(Ok::<_, std::io::Error>))
}

async fn feed_server(body: impl Fn() -> Body + Clone + Send + Sync + 'static) -> Server {
    let answer = move |version: Version| {
        assert_eq!(version, Version::HTTP_2);
        let body = body();
        async move { body }
    };
    serve(Router::new().route("/v1/hosts/h1/feed", post(answer))).await
}

async fn feed(server: &Server) -> Result<Vec<FeedMessage>, ClientError> {
    let host = "h1".parse().unwrap();
    let feed = client(server.address)
        .open_feed(&host, &OpenFeed::default())
        .await?;
    feed.try_collect().await
}

#[tokio::test]
async fn a_feed_comes_whole_wherever_it_is_cut() {
    for length in [1, 2, 7, 4096] {
        let server = feed_server(move || pieces(FEED, length)).await;
        let messages = feed(&server).await.unwrap();
        assert_eq!(messages.len(), 3, "in pieces of {length}");
        let bookmark = FeedMessage::Bookmark {
            revision: Revision::new(1, 5),
        };
        assert_eq!(messages[2], bookmark);
    }
}

#[tokio::test]
async fn a_burst_of_small_messages_waits_for_its_reader() {
    let line = Bytes::from(FEED.lines().last().unwrap().to_owned() + "\n");
    let (sent, all_sent) = tokio::sync::oneshot::channel();
    let sent = Arc::new(Mutex::new(Some(sent)));
    let burst = move || {
        let (line, sent) = (line.clone(), sent.clone());
        let lines = stream::iter(0..1000).map(move |n| {
            if n == 999 {
                sent.lock().unwrap().take().unwrap().send(()).unwrap();
            }
            Ok::<_, std::io::Error>(line.clone())
        });
        Body::from_stream(lines)
    };
    let server = feed_server(burst).await;
    let host = "h1".parse().unwrap();
    let feed = client(server.address)
        .open_feed(&host, &OpenFeed::default())
        .await
        .unwrap();
    let patience = Duration::from_secs(10);
    tokio::time::timeout(patience, all_sent)
        .await
        .expect("the client takes the burst")
        .unwrap();
    assert_eq!(feed.try_collect::<Vec<_>>().await.unwrap().len(), 1000);
}

#[tokio::test]
async fn a_line_without_end_and_one_cut_short_are_errors() {
    let piece = Bytes::from(vec![b' '; 1 << 20]);
    let endless = move || Body::from_stream(stream::repeat(piece.clone()).map(Ok::<_, std::io::Error>));
    let error = feed(&feed_server(endless).await).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Protocol { what, .. } if what.contains("2097152")),
        "{error:?}"
    );

    let cut = || pieces(&FEED[..FEED.len() - 3], 64);
    let error = feed(&feed_server(cut).await).await.unwrap_err();
    assert!(matches!(&error, ClientError::Lost { .. }), "{error:?}");

    let unknown = || pieces("{\"message\": \"later\"}\n", 64);
    let error = feed(&feed_server(unknown).await).await.unwrap_err();
    assert!(matches!(&error, ClientError::Protocol { .. }), "{error:?}");
}

/// Each watch gets the next body, and its query is kept.
type Watches = Arc<Mutex<(Vec<Body>, Vec<String>)>>;

async fn watch_server(bodies: Vec<Body>) -> (Server, Watches) {
    let watches: Watches = Arc::new(Mutex::new((bodies, Vec::new())));
    let answer = |State(watches): State<Watches>, RawQuery(query): RawQuery| async move {
        let mut watches = watches.lock().unwrap();
        watches.1.push(query.unwrap_or_default());
        watches.0.remove(0)
    };
    let router = Router::new().route(&format!("/v1/instances/{ID}/watch"), get(answer));
    (serve(router.with_state(watches.clone())).await, watches)
}

fn bookmark(n: u64) -> String {
    format!("{{\"event\": \"bookmark\", \"revision\": \"1.{n}\"}}\n")
}

#[tokio::test]
async fn a_watch_brings_its_events_and_ends() {
    let (server, watches) = watch_server(vec![pieces(&(bookmark(1) + &bookmark(2)), 5)]).await;
    let query = WatchQuery {
        prefix: "net".parse().unwrap(),
        after: Some(Revision::new(1, 0)),
        wait_seconds: Some(9),
    };
    let stream = client(server.address)
        .watch_instance_data(ID, &query)
        .await
        .unwrap();
    let events: Vec<WatchEvent> = stream.try_collect().await.unwrap();
    assert_eq!(events.len(), 2);
    assert_eq!(watches.lock().unwrap().1, ["prefix=net&after=1.0"]);
}

#[tokio::test]
async fn a_lost_watch_is_taken_up_after_the_last_revision() {
    let bodies = vec![
        pieces(&(bookmark(1) + "{\"event"), 9),
        pieces(&bookmark(2), 9),
        pieces("", 1),
    ];
    let (server, watches) = watch_server(bodies).await;
    let mut follow = client(server.address).follow(ID, PathPrefix::ALL, None);
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(match follow.next().await.unwrap() {
            Followed::Event(WatchEvent::Bookmark { revision }) => revision.to_string(),
            Followed::Event(event) => panic!("{event:?}"),
            Followed::Lost { error, wait } => format!("{} {}", error.is_some(), wait.as_millis()),
        });
    }
    assert_eq!(seen, ["1.1", "true 100", "1.2", "false 100", "false 200"]);
    assert_eq!(
        watches.lock().unwrap().1,
        ["prefix=", "prefix=&after=1.1", "prefix=&after=1.2"]
    );
}
