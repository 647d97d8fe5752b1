//! Words to the service manager. Without one (`NOTIFY_SOCKET` unset) nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

/// What the service manager is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The socket is bound and the first snapshot is applied.
    Ready,
    /// The socket is bound; the first snapshot didn't come in time, and the boot goes on without it. [`Self::Ready`] may
    /// follow.
    Degraded,
    /// The agent ends.
    Stopping,
}

/// Tells the service manager.
pub fn notify(readiness: Readiness) {
    tell(match readiness {
        Readiness::Ready => &[NotifyState::Ready, NotifyState::Status("mirroring")],
        Readiness::Degraded => &[NotifyState::Ready, NotifyState::Status("waiting for the host")],
        Readiness::Stopping => &[NotifyState::Stopping],
    });
}

/// Tells the service manager that the agent is alive.
pub fn notify_alive() {
    tell(&[NotifyState::Watchdog]);
}

/// After which time without a word the service manager ends the agent and starts it again, if it does so at all.
pub fn watchdog() -> Option<Duration> {
    let mut micros = 0;
    let watched = sd_notify::watchdog_enabled(false, &mut micros) && micros > 0;
    watched.then(|| Duration::from_micros(micros))
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::warn!(%error, "the service manager can't be told");
    }
}
