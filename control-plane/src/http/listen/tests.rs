//! The socket from outside: slow, silent, too many, or of the wrong protocol.

use std::net::SocketAddr;

use axum::routing::{get, post};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::identity::authority::{Authority, server as tls};
use crate::store::Store;

use super::*;

const SOON: Duration = Duration::from_millis(200);
const DEADLINE: Duration = Duration::from_secs(20);
const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

struct Socket {
    address: SocketAddr,
    authority: CertificateDer<'static>,
    cancel: CancellationToken,
    serving: JoinSet<()>,
}

async fn socket(bounds: Bounds) -> Socket {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = Router::new()
        .route("/", get(async || "hello"))
        .route("/", post(async |body: String| body));
    let cancel = CancellationToken::new();
    let now = crate::http::tests::now();
    let authority = Arc::new(Authority::make("test", now).unwrap().0);
    let tls = tls::config(authority.clone(), vec!["127.0.0.1".parse().unwrap()]).unwrap();
    let mut tasks = JoinSet::new();
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_sqlite(folder.path().join("store.db"), &Default::default()).unwrap();
    let secured = Secured {
        tls: Arc::new(tls).into(),
        hosts: Hosts::open(store).await.unwrap(),
    };
    tasks.spawn(serve(listener, secured, routes, bounds, cancel.clone()));
    Socket {
        address,
        authority: authority.certificate().clone(),
        cancel,
        serving: tasks,
    }
}

async fn connect(socket: &Socket, first: &[u8]) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(socket.authority.clone()).unwrap();
    let provider = rustls::crypto::ring::default_provider();
    let config = ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(socket.address).await.unwrap();
    let name = socket.address.ip().into();
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    stream.write_all(first).await.unwrap();
    stream
}

/// What comes until the other end closes, or the answer's body has come.
async fn answer(stream: &mut TlsStream<TcpStream>) -> String {
    let mut got = Vec::new();
    // A connection that is cut off ends without the goodbye of TLS.
    let reading =
        async { while !got.ends_with(b"hello") && stream.read_buf(&mut got).await.unwrap_or(0) > 0 {} };
    timeout(DEADLINE, reading).await.expect("an answer or an end");
    String::from_utf8(got).unwrap()
}

#[tokio::test]
async fn a_body_that_never_ends_does_not_hold_the_end_up() {
    let bounds = Bounds {
        drain: SOON,
        ..Bounds::default()
    };
    let mut socket = socket(bounds).await;
    let half = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf";
    let mut stream = connect(&socket, half).await;
    // Its request is under way by the time that a later one was answered.
    assert!(answer(&mut connect(&socket, ASK).await).await.ends_with("hello"));
    socket.cancel.cancel();
    let ended = timeout(DEADLINE, socket.serving.join_next()).await;
    assert!(ended.is_ok(), "the server waits for the rest of a body");
    assert_eq!(answer(&mut stream).await, "");
}

#[tokio::test]
async fn a_connection_that_does_not_ask_is_closed() {
    let bounds = Bounds {
        head: SOON,
        ..Bounds::default()
    };
    let socket = socket(bounds).await;
    for begun in [
        &b""[..],
        b"PRI * HTT",
        b"GET / HTTP/1.1\r\nhos",
        &[ASK, b"GET"].concat(),
    ] {
        let mut stream = connect(&socket, begun).await;
        answer(&mut stream).await;
        let closed = timeout(DEADLINE, stream.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok(), "{begun:?} stays open");
    }
}

#[tokio::test]
async fn a_connection_too_many_waits_for_a_seat() {
    let bounds = Bounds {
        connections: 1,
        ..Bounds::default()
    };
    let socket = socket(bounds).await;
    let mut first = connect(&socket, ASK).await;
    assert!(answer(&mut first).await.ends_with("hello"));
    let mut second = Box::pin(connect(&socket, ASK));
    let early = timeout(SOON, second.as_mut()).await;
    assert!(early.is_err(), "it is greeted while the only seat is taken");
    drop(first);
    assert!(answer(&mut second.await).await.ends_with("hello"));
}

#[tokio::test]
async fn a_handshake_that_is_not_finished_is_closed() {
    let bounds = Bounds {
        head: SOON,
        ..Bounds::default()
    };
    let socket = socket(bounds).await;
    for begun in [&b""[..], &[22], &[22, 3, 1, 2, 0, 1]] {
        let mut stream = TcpStream::connect(socket.address).await.unwrap();
        stream.write_all(begun).await.unwrap();
        let closed = timeout(DEADLINE, stream.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok(), "{begun:?} stays open");
    }
}

#[tokio::test]
async fn plain_http_is_told_to_use_tls() {
    let socket = socket(Bounds::default()).await;
    let mut stream = TcpStream::connect(socket.address).await.unwrap();
    stream.write_all(ASK).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut got = String::new();
    stream.read_to_string(&mut got).await.unwrap();
    assert!(
        got.starts_with("HTTP/1.1 400 ") && got.contains("write https://"),
        "{got}"
    );
    let (_, body) = got.split_once("\r\n\r\n").unwrap();
    serde_json::from_str::<moorline_shared::api::ProblemDetails>(body).unwrap();
}
