//! The socket that speaks HTTP, with bounds on what its callers can use up and on how long its end takes.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// After an accept that failed, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the other end of a silent HTTP/2 connection is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(20);

/// What the callers of a socket can use up.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once; further ones wait in the socket's queue.
    pub connections: usize,
    /// For the first request's head after a connection is made, and for every later one's.
    pub head: Duration,
    /// For what is under way when the server ends.
    pub drain: Duration,
}

impl Default for Bounds {
    /// Ten thousand hosts with a feed each, and room for those who ask; the unit allows 65,536 open files.
    fn default() -> Self {
        Self {
            connections: 16_384,
            head: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}

/// Answers until cancelled, then lets what is under way finish, and cuts it off after [`Bounds::drain`].
pub async fn serve(listener: TcpListener, routes: Router, bounds: Bounds, cancel: CancellationToken) {
    let seats = Arc::new(Semaphore::new(bounds.connections));
    let mut connections = JoinSet::new();
    loop {
        // Cancel-safe: a connection that wasn't accepted stays in the queue, and a seat that wasn't taken is free.
        tokio::select! {
            () = cancel.cancelled() => break,
            (stream, seat) = next(&listener, &seats) => {
                connections.spawn(converse(stream, seat, routes.clone(), bounds.head, cancel.clone()));
            }
            Some(_) = connections.join_next() => (),
        }
    }
    // New callers are refused at once.
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(bounds.drain, drained).await.is_err() {
        tracing::warn!(left = connections.len(), "cutting off callers that are not done");
        connections.shutdown().await;
    }
}

/// The next connection and its seat.
async fn next(listener: &TcpListener, seats: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    loop {
        // Taken first, so that no connection is accepted that can't be served. It is never closed.
        let seat = Arc::clone(seats).acquire_owned().await;
        match (listener.accept().await, seat) {
            (Ok((stream, _)), Ok(seat)) => return (stream, seat),
            (Err(error), _) if was_its_own(&error) => (),
            (Err(error), _) => {
                tracing::warn!(%error, "can't accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
            (Ok(_), Err(_)) => (),
        }
    }
}

/// Whether the connection failed, and not the socket.
fn was_its_own(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

/// One connection, to its end.
async fn converse(
    stream: TcpStream,
    _seat: OwnedSemaphorePermit,
    routes: Router,
    patience: Duration,
    cancel: CancellationToken,
) {
    // Batches of the feed are short and waited for.
    let _ = stream.set_nodelay(true);
    let asked = CancellationToken::new();
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(|request: hyper::Request<Incoming>| {
        asked.cancel();
        let answer = routes.call(request);
        async move { answer.await as Result<Response<Body>, Infallible> }
    });
    let server = server(patience);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    // The first head has a bound of its own: while it isn't known which HTTP is spoken, none of the others counts.
    let silent = async {
        if timeout(patience, asked.cancelled()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    // Cancel-safe: the connection is polled on, or its time is over.
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = silent => return,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a caller's connection ended early");
    }
}

fn server(patience: Duration) -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(patience);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY);
    server
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const SOON: Duration = Duration::from_millis(200);
    const DEADLINE: Duration = Duration::from_secs(20);
    const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    struct Socket {
        address: SocketAddr,
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
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, routes, bounds, cancel.clone()));
        Socket {
            address,
            cancel,
            serving: tasks,
        }
    }

    async fn connect(socket: &Socket, first: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(socket.address).await.unwrap();
        stream.write_all(first).await.unwrap();
        stream
    }

    /// What comes until the other end closes, or the answer's body has come.
    async fn answer(stream: &mut TcpStream) -> String {
        let mut got = Vec::new();
        let reading =
            async { while !got.ends_with(b"hello") && stream.read_buf(&mut got).await.unwrap() > 0 {} };
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
        let mut second = connect(&socket, ASK).await;
        let early = timeout(SOON, second.readable()).await;
        assert!(early.is_err(), "it is answered while the only seat is taken");
        drop(first);
        assert!(answer(&mut second).await.ends_with("hello"));
    }
}
