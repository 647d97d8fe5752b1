//! Waiting for a condition, with a deadline.

use anyhow::{Result, bail};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two looks: short against anything measured here, long against the cost of looking.
const INTERVAL: Duration = Duration::from_millis(5);

/// Looks again and again until there is something, and answers with it.
///
/// `what` completes the sentence "waited for ..." of the error that comes after `patience`. One look is never
/// cut short, so a look that can hang needs a deadline of its own. Dropping the future stops the waiting.
pub async fn until<T>(what: &str, patience: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look().await {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("waited {:.1} s in vain for {what}", patience.as_secs_f64());
        }
        sleep(INTERVAL).await;
    }
}
