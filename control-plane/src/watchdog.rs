//! The service manager's watchdog: a control plane that hangs is ended and started again.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Tells the service manager twice in the time that it allows that the runtime turns, until cancelled. Where no service
/// manager wants to hear it, this only waits.
///
/// It has to be a task of its own, which nothing polls once all threads of the runtime hang.
pub(crate) async fn run(cancel: CancellationToken) {
    let Some(allowed) = allowed() else {
        return cancel.cancelled().await;
    };
    let mut turns = interval(allowed / 2);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while cancel.run_until_cancelled(turns.tick()).await.is_some() {
        if let Err(error) = sd_notify::notify(false, &[NotifyState::Watchdog]) {
            tracing::warn!(%error, "the service manager can't be told that the control plane is alive");
        }
    }
}

/// After which time without a word the service manager ends this process, if it does so at all.
fn allowed() -> Option<Duration> {
    let mut micros = 0;
    let watched = sd_notify::watchdog_enabled(false, &mut micros) && micros > 0;
    watched.then(|| Duration::from_micros(micros))
}
