//! The port that is scraped: plain HTTP on loopback, `GET /metrics`, apart from what the daemon serves its callers by.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::handler::Handler;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How many scrapes may be under way; others wait in the socket's queue.
const CONNECTIONS: usize = 8;
/// How long one may take. Each has a connection of its own.
const PATIENCE: Duration = Duration::from_secs(10);
/// After an accept that failed, such as for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The port, bound.
#[derive(Debug)]
pub struct Port(TcpListener);

impl Port {
    /// Binds it. Must be called within a runtime.
    ///
    /// # Errors
    /// What the system says, such as that another process has the port.
    pub fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener).map(Self)
    }

    /// Where it is.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers by `scrape` until cancelled; answers under way are cut off.
    pub async fn serve<T: 'static>(self, scrape: impl Handler<T, ()>, cancel: CancellationToken) {
        let routes = Router::new().route("/metrics", get(scrape));
        let mut connections = JoinSet::new();
        while !cancel.is_cancelled() {
            let room = connections.len() < CONNECTIONS;
            // Cancel-safe: a connection that wasn't accepted stays in the queue.
            tokio::select! {
                () = cancel.cancelled() => break,
                accepted = self.0.accept(), if room => match accepted {
                    Ok((stream, _)) => drop(connections.spawn(converse(stream, routes.clone()))),
                    Err(_) => sleep(PAUSE).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
        connections.shutdown().await;
    }
}

/// One scrape. Whoever breaks off is gone.
async fn converse(stream: TcpStream, routes: Router) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).keep_alive(false);
    let scrape = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    let _ = timeout(PATIENCE, scrape).await;
}
