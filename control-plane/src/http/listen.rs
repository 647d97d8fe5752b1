//! The socket that speaks HTTP over TLS, with bounds on what its callers can use up and on how long its end takes.
//!
//! Who shows the certificate of a host has it, as a [`HostCertificate`], with each of its requests. Whoever speaks plain
//! HTTP is told so.

use std::convert::Infallible;
use std::fmt;
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
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::auth::address::PeerAddress;
use super::peer::HostCertificate;
use crate::identity::authority::server::now;
use crate::identity::enrolment::Hosts;

/// After an accept that failed, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the other end of a silent HTTP/2 connection is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(20);
/// What the first byte of a TLS connection is: the type of a record that holds a handshake.
const HANDSHAKE: u8 = 22;
/// How much is read of a request in plain HTTP before the connection is closed, in bytes.
const PLAIN_BYTES: u64 = 64 * 1024;
/// What a request in plain HTTP is answered.
const PLAIN: &str = "{\"type\": \"tls-only\", \"title\": \"TLS only\", \"status\": 400, \
    \"detail\": \"this port speaks TLS alone; write https:// instead of http://\"}\n";

/// What the callers of a socket can use up.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once; further ones wait in the socket's queue.
    pub connections: usize,
    /// For the handshake and the first request's head after a connection is made, and for every later head.
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
pub async fn serve(
    listener: TcpListener,
    secured: Secured,
    routes: Router,
    bounds: Bounds,
    cancel: CancellationToken,
) {
    let service = Service {
        secured,
        routes,
        patience: bounds.head,
        cancel: cancel.clone(),
    };
    let seats = Arc::new(Semaphore::new(bounds.connections));
    let mut connections = JoinSet::new();
    loop {
        // Cancel-safe: a connection that wasn't accepted stays in the queue, and a seat that wasn't taken is free.
        tokio::select! {
            () = cancel.cancelled() => break,
            (stream, seat) = next(&listener, &seats) => {
                connections.spawn(converse(stream, seat, service.clone()));
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

/// How connections are made, and which of them have to end.
#[derive(Clone)]
pub struct Secured {
    /// The handshake.
    pub tls: TlsAcceptor,
    /// The hosts that may have connections.
    pub hosts: Hosts,
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secured({:?})", self.hosts)
    }
}

impl Secured {
    /// Waits until a connection that showed this certificate may go on no longer: the host has lost it, or it has ended
    /// meanwhile. One that had ended before is there for its renewal.
    async fn over(&self, shown: Option<&HostCertificate>) {
        let Some(shown) = shown else {
            return std::future::pending().await;
        };
        let left = now().millis_until(shown.not_after);
        let expired = async {
            if left == 0 {
                std::future::pending::<()>().await;
            }
            sleep(Duration::from_millis(left)).await;
        };
        // Cancel-safe: nothing is done in either.
        tokio::select! {
            () = self.hosts.over(&shown.host).cancelled_owned() => (),
            () = expired => (),
        }
    }
}

/// What every connection is served with.
#[derive(Clone)]
struct Service {
    secured: Secured,
    routes: Router,
    patience: Duration,
    cancel: CancellationToken,
}

/// One connection, to its end.
async fn converse(stream: TcpStream, _seat: OwnedSemaphorePermit, service: Service) {
    // Batches of the feed are short and waited for.
    let _ = stream.set_nodelay(true);
    let deadline = Instant::now() + service.patience;
    // Cancel-safe: a connection on which nothing was asked is let go.
    let secured = tokio::select! {
        secured = timeout_at(deadline, service.secure(stream)) => secured,
        () = service.cancel.cancelled() => return,
    };
    if let Ok(Some(stream)) = secured {
        service.speak(stream, deadline).await;
    }
}

impl Service {
    /// The handshake.
    async fn secure(&self, mut stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let mut first = [0];
        if stream.peek(&mut first).await.ok()? == 0 {
            return None;
        }
        if first != [HANDSHAKE] {
            let _ = refuse_plain(&mut stream).await;
            return None;
        }
        let secured = self.secured.tls.accept(stream).await;
        secured
            .inspect_err(|error| tracing::debug!(%error, "a caller's handshake failed"))
            .ok()
    }

    /// Requests and answers, the first of which has to come by `deadline`.
    async fn speak(self, stream: TlsStream<TcpStream>, deadline: Instant) {
        let peer = peer(&stream);
        let address = PeerAddress(stream.get_ref().0.peer_addr().ok().map(|address| address.ip()));
        let asked = CancellationToken::new();
        let routes = TowerToHyperService::new(self.routes);
        let service = service_fn(|mut request: hyper::Request<Incoming>| {
            asked.cancel();
            request.extensions_mut().insert(address);
            if let Some(peer) = &peer {
                request.extensions_mut().insert(peer.clone());
            }
            let answer = routes.call(request);
            async move { answer.await as Result<Response<Body>, Infallible> }
        });
        let server = server(self.patience);
        let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
        // The first head has a bound of its own: while it isn't known which HTTP is spoken, none of the others counts.
        let silent = async {
            if timeout_at(deadline, asked.cancelled()).await.is_ok() {
                std::future::pending::<()>().await;
            }
        };
        // Cancel-safe: the connection is polled on, or its time is over.
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = silent => return,
            () = self.secured.over(peer.as_ref()) => {
                tracing::info!(host = ?peer.as_ref().map(|peer| &peer.host), "a host's connection is cut");
                return;
            }
            () = self.cancel.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a caller's connection ended early");
        }
    }
}

/// The host that the connection is made by, if it shows a certificate.
fn peer(stream: &TlsStream<TcpStream>) -> Option<HostCertificate> {
    let shown = stream.get_ref().1.peer_certificates()?.first()?;
    HostCertificate::read(shown)
}

/// Says in plain HTTP that it isn't spoken. What was asked is read, or the answer would be lost with it.
async fn refuse_plain(stream: &mut TcpStream) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        PLAIN.len()
    );
    stream.write_all(format!("{head}{PLAIN}").as_bytes()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(PLAIN_BYTES), &mut tokio::io::sink()).await?;
    Ok(())
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
mod tests;
