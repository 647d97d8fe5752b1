//! The daemon: link, mirror and local surface put together.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use moorline_shared::agent::DEFAULT_SOCKET;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::link::{self, Endpoint, Given, Line};
use crate::local::{self, BindError, Settings, Surface};
use crate::mirror::{Live, Mirror};
use crate::platform::{Readiness, notify};

/// What the daemon is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the host is.
    pub endpoint: Endpoint,
    /// Where local programs find the agent.
    pub socket: PathBuf,
    /// What the local surface keeps to.
    pub local: Settings,
    /// How long the service manager waits for the first snapshot; then the boot goes on without it.
    pub ready_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: Endpoint::default(),
            socket: DEFAULT_SOCKET.into(),
            local: Settings::default(),
            ready_after: Duration::from_secs(20),
        }
    }
}

/// The daemon can't run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The local socket can't be served.
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// Runs the agent until `stop` is cancelled and what was under way is done.
///
/// Must run on a runtime of one thread that takes local tasks. Dropping the future ends everything at once.
pub async fn run(config: &Config, stop: &CancellationToken) -> Result<(), RunError> {
    let bound = local::bind(&config.socket).await?;
    tracing::info!(socket = %config.socket.display(), endpoint = %config.endpoint, "serving");
    let given = Given::default();
    let line = Rc::new(Line::new(&config.endpoint));
    let surface = Rc::new(Surface::new(given.clone(), Rc::clone(&line), config.local));
    tokio::join!(
        link::keep(&config.endpoint, &line, &given, stop),
        local::serve(bound, surface, stop),
        readiness(&given.mirror, config.ready_after, stop),
    );
    Ok(())
}

/// Tells the service manager when there is something to serve, and when it ends.
async fn readiness(mirror: &Live, ready_after: Duration, stop: &CancellationToken) {
    let first = mirror.until(Mirror::revision);
    match stop.run_until_cancelled(timeout(ready_after, first)).await {
        Some(Ok(revision)) => {
            tracing::info!(%revision, "ready");
            notify(Readiness::Ready);
        }
        Some(Err(_)) => {
            tracing::warn!("no data from the host yet; the boot goes on without it");
            notify(Readiness::Degraded);
        }
        None => {}
    }
    stop.cancelled().await;
    notify(Readiness::Stopping);
}
