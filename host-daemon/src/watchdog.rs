//! The service manager's watchdog: a daemon that hangs, be it one shard only, is ended and started again. VMs run on.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::link::{Ending, ShardsHandle};

/// Tells the service manager twice in the time that it allows that every shard's loop turns, and this runtime too, until
/// cancelled. Where no service manager wants to hear it, this only waits.
pub(crate) async fn run(shards: ShardsHandle, cancel: CancellationToken) {
    if let Some(allowed) = allowed() {
        let watching = watch(allowed, || shards.all_turn(), ping);
        cancel.run_until_cancelled(watching).await;
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
    A: Future<Output = Result<(), Ending>>,
{
    let mut turns = interval(allowed / 2);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        if alive().await.is_ok() {
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

    use super::{Ending, watch};

    /// How often one is pinged for in a minute of which it allows ten seconds without a word.
    async fn pings<A: Future<Output = Result<(), Ending>>>(alive: impl Fn() -> A) -> u32 {
        let pings = Cell::new(0);
        let watching = watch(Duration::from_secs(10), alive, || pings.set(pings.get() + 1));
        timeout(Duration::from_secs(59), watching).await.unwrap_err();
        pings.get()
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_daemon_all_of_whose_shards_answer_is_alive() {
        assert_eq!(pings(|| ready(Ok(()))).await, 12);
        assert_eq!(pings(|| ready(Err(Ending))).await, 0);
        assert_eq!(pings(pending).await, 0);
    }
}
