//! The service manager's watchdog: a daemon that hangs is ended and started again.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Tells the service manager twice in the time that it allows that the daemon is alive, until cancelled. It isn't told
/// while `alive` doesn't answer, or says no. Where no service manager wants to hear it, this only waits.
///
/// It has to be a task of its own, which nothing polls once the runtime hangs.
pub async fn run<A>(alive: impl Fn() -> A, cancel: CancellationToken)
where
    A: Future<Output = bool>,
{
    if let Some(allowed) = allowed() {
        cancel.run_until_cancelled(watch(allowed, alive, ping)).await;
    }
    cancel.cancelled().await;
}

/// After which time without a word the service manager ends this process, if it does so at all.
fn allowed() -> Option<Duration> {
    let mut micros = 0;
    let watched = sd_notify::watchdog_enabled(false, &mut micros) && micros > 0;
    watched.then(|| Duration::from_micros(micros))
}

/// Pings as long as `alive` answers in time; the end of the daemon is its parts' to tell.
async fn watch<A>(allowed: Duration, alive: impl Fn() -> A, mut ping: impl FnMut())
where
    A: Future<Output = bool>,
{
    let mut turns = interval(allowed / 2);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        if alive().await {
            ping();
        }
    }
}

fn ping() {
    if let Err(error) = sd_notify::notify(false, &[NotifyState::Watchdog]) {
        tracing::warn!(%error, "the service manager can't be told that the daemon is alive");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, ready};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::watch;

    /// How often one is pinged for in a minute of which it allows ten seconds without a word.
    async fn pings<A: Future<Output = bool>>(alive: impl Fn() -> A) -> u32 {
        let pings = Cell::new(0);
        let watching = watch(Duration::from_secs(10), alive, || pings.set(pings.get() + 1));
        timeout(Duration::from_secs(59), watching).await.unwrap_err();
        pings.get()
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_daemon_that_answers_is_alive() {
        assert_eq!(pings(|| ready(true)).await, 12);
        assert_eq!(pings(|| ready(false)).await, 0);
        assert_eq!(pings(pending).await, 0);
    }
}
