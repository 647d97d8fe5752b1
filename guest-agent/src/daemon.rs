//! The daemon: link, mirror and local surface put together.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use moorline_shared::PathPrefix;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::access::{DEFAULT_RULES, Rules, RulesError};
use crate::keep::{Keeper, Pace};
use crate::link::{self, Endpoint, Given, Line, LinkKeys};
use crate::local::{self, Backing, OpenError, Settings};
use crate::mirror::{Live, Mirror};
use crate::platform::{Readiness, notify, notify_alive, watchdog};
use crate::proof::Prover;
use crate::writes::{Marks, Writes};

/// Where the agent keeps what must outlast a reboot, unless it is told another place.
const DEFAULT_STATE: &str = "/var/lib/moorline/agent";

/// The folder there of the marks of changes under way.
const MARKS: &str = "writes";

/// What the daemon is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the host is.
    pub endpoint: Endpoint,
    /// What the surfaces for local programs keep to.
    pub local: Settings,
    /// The file that says who in the guest may read what; [`DEFAULT_RULES`], which may be missing, unless one is named.
    pub access: Option<PathBuf>,
    /// The folder of what the agent keeps, for its user alone.
    pub state: PathBuf,
    /// What of the mirror is kept there, so that it can be read after a reboot while the host is away.
    pub keep: Vec<PathPrefix>,
    /// How long the service manager waits for the first snapshot; then the boot goes on without it.
    pub ready_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: Endpoint::default(),
            local: Settings::default(),
            access: None,
            state: DEFAULT_STATE.into(),
            keep: Vec::new(),
            ready_after: Duration::from_secs(20),
        }
    }
}

/// The daemon can't run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A surface for local programs can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The access rules can't be used.
    #[error(transparent)]
    Rules(#[from] RulesError),
}

/// Runs the agent until `stop` is cancelled and what was under way is done.
///
/// Must run on a runtime of one thread that takes local tasks. Dropping the future ends everything at once.
pub async fn run(config: &Config, stop: &CancellationToken) -> Result<(), RunError> {
    let given = Given {
        keys: Rc::new(LinkKeys::of_this_machine(&config.state)),
        ..Given::default()
    };
    let line = Rc::new(Line::new(&config.endpoint));
    let prover = Rc::new(Prover::new(Rc::clone(&line), Rc::clone(&given.credentials)));
    let writes = Rc::new(Writes::new(
        Marks::at(&config.state.join(MARKS)),
        Rc::clone(&line),
        Rc::clone(&prover),
        Rc::clone(&given.mirror),
        config.local.settling,
    ));
    let backing = Rc::new(Backing {
        given: given.clone(),
        line: Rc::clone(&line),
        prover: Rc::clone(&prover),
        writes: Rc::clone(&writes),
        rules: rules(config.access.as_deref())?,
        settings: config.local.clone(),
    });
    let keeper = Keeper::new(
        &config.state,
        config.keep.clone(),
        Rc::clone(&line),
        Rc::clone(&given.mirror),
        Pace::default(),
    );
    let surfaces = local::open(&backing, stop).await?;
    tracing::info!(socket = %config.local.socket.display(), endpoint = %config.endpoint, "serving");
    tokio::join!(
        link::keep(&config.endpoint, &line, &given, stop),
        prover.keep(stop),
        writes.keep(stop),
        keeper.keep(stop),
        join_all(surfaces),
        readiness(&given.mirror, config.ready_after, stop, notify),
        signs_of_life(watchdog(), stop, notify_alive),
    );
    Ok(())
}

/// Tells the service manager twice in the time that it allows that this thread goes on, if it wants to hear so.
async fn signs_of_life(allowed: Option<Duration>, stop: &CancellationToken, tell: impl Fn()) {
    let Some(allowed) = allowed else {
        return;
    };
    let told = async || {
        tell();
        sleep(allowed / 2).await;
    };
    while stop.run_until_cancelled(told()).await.is_some() {}
}

/// The rules in the file that was named, or those in the usual place, if there are any.
fn rules(named: Option<&Path>) -> Result<Rules, RulesError> {
    match named {
        Some(path) => Rules::read(path),
        None => Rules::read_if_there(Path::new(DEFAULT_RULES)),
    }
}

/// Tells the service manager when there is something to serve, or that the boot goes on without it, and when it ends.
async fn readiness(
    mirror: &Live,
    ready_after: Duration,
    stop: &CancellationToken,
    mut notify: impl FnMut(Readiness),
) {
    let waiting = async {
        let mut first = std::pin::pin!(mirror.until(Mirror::applied));
        let revision = if let Ok(revision) = timeout(ready_after, &mut first).await {
            revision
        } else {
            tracing::warn!("no data from the host yet; the boot goes on without it");
            notify(Readiness::Degraded);
            first.await
        };
        tracing::info!(%revision, "ready");
        notify(Readiness::Ready);
    };
    stop.run_until_cancelled(waiting).await;
    stop.cancelled().await;
    notify(Readiness::Stopping);
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use tokio_util::sync::CancellationToken;

    use super::{Duration, Readiness, readiness, signs_of_life, timeout};
    use crate::test_host::{Rig, run, settings};

    #[test]
    fn the_service_manager_hears_of_it_twice_in_the_time_that_it_allows() {
        run(async {
            tokio::time::pause();
            let (told, stop) = (Cell::new(0), CancellationToken::new());
            let tell = || told.set(told.get() + 1);
            let telling = signs_of_life(Some(Duration::from_secs(10)), &stop, tell);
            timeout(Duration::from_secs(59), telling).await.unwrap_err();
            assert_eq!(told.get(), 12);
            signs_of_life(None, &stop, tell).await;
            assert_eq!(told.get(), 12);
        });
    }

    #[test]
    fn data_that_come_late_are_told_of() {
        run(async {
            let mut rig = Rig::without_host(settings()).await;
            rig.host.change(&[("a", Some(b"one"))]);
            let mirror = Rc::clone(&rig.mirror);
            let (told, stop) = (RefCell::default(), CancellationToken::new());
            let note = |state| {
                let told: &RefCell<Vec<Readiness>> = &told;
                told.borrow_mut().push(state);
                match state {
                    Readiness::Degraded => rig.start_host(),
                    Readiness::Ready => stop.cancel(),
                    Readiness::Stopping => {}
                }
            };
            readiness(&mirror, Duration::from_millis(1), &stop, note).await;
            let all = [Readiness::Degraded, Readiness::Ready, Readiness::Stopping];
            assert_eq!(told.into_inner(), all);
        });
    }
}
