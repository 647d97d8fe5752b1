//! The port of loopback that is scraped, where the configuration names one: plain HTTP, `GET /metrics`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Services;
use super::status::metrics;

/// How many scrapes may be under way; others wait in the socket's queue.
const CONNECTIONS: usize = 8;
/// How long one may take. Each has a connection of its own.
const PATIENCE: Duration = Duration::from_secs(10);
/// After an accept that failed, such as for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The port, bound.
#[derive(Debug)]
pub(super) struct Port(TcpListener);

impl Port {
    /// Binds it. Must be called within a runtime.
    pub(super) fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener).map(Self)
    }

    /// Where it is.
    #[cfg(test)]
    pub(super) fn address(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers until cancelled; answers under way are cut off.
    pub(super) async fn serve(self, services: Arc<Services>, cancel: CancellationToken) {
        let scrape = async |State(services): State<Arc<Services>>| metrics(&services).await;
        let routes = Router::new().route("/metrics", get(scrape)).with_state(services);
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
