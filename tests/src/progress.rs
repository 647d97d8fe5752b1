//! Tells a person at a terminal what takes long, and how long it took.

use anyhow::Result;
use std::time::Duration;
use tokio::time::{Instant, interval_at, timeout};

/// How often a step that is still under way says so.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// How long a step that usually has nothing to do may take before it is worth a line.
const WORTH_A_LINE: Duration = Duration::from_secs(1);

/// Does `work` while saying on stderr that it began, every ten seconds that it goes on, and how long it took.
///
/// The work's own result is passed on; dropping the future drops the work.
pub async fn step<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    follow(what, Instant::now(), work).await
}

/// Like [`step`], but says nothing at all when the work is done within a second.
pub async fn quietly_at_first<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let begun = Instant::now();
    let mut work = std::pin::pin!(work);
    match timeout(WORTH_A_LINE, &mut work).await {
        Ok(result) => result,
        Err(_) => follow(what, begun, work).await,
    }
}

async fn follow<T>(what: &str, begun: Instant, work: impl Future<Output = Result<T>>) -> Result<T> {
    eprintln!("lab: {what} ...");
    let mut ticks = interval_at(begun + SIGN_OF_LIFE, SIGN_OF_LIFE);
    let mut work = std::pin::pin!(work);
    loop {
        // Cancel-safe: the work is polled by reference, and a lost tick is only a line less.
        tokio::select! {
            result = &mut work => {
                let outcome = if result.is_ok() { "done" } else { "failed" };
                eprintln!("lab: {what}: {outcome} in {:.1} s", begun.elapsed().as_secs_f64());
                return result;
            }
            _ = ticks.tick() => eprintln!("lab: {what} ... {} s", begun.elapsed().as_secs()),
        }
    }
}
