//! The guest's end of the guest link: dials the host, keeps one session open, and comes back when it ends.
//!
//! [`keep`] is the one task. It dials an [`Endpoint`], lets a [`driver`] move bytes between the socket and the session
//! core of `moorline-shared` until that ends, waits as [`Backoff`] says, and dials again. What the host pushes goes into
//! what is [`Given`]; everything else goes over [`Line`], by which local requests ask the host while a session is open.
//!
//! The wait grows with every attempt that led nowhere and begins anew once a session brought something; a connection
//! that is merely accepted changes nothing, nor does one that the host soon ends by GOAWAY, which also names a time to come
//! back.

mod backoff;
mod driver;
mod endpoint;
mod keys;
mod line;
#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::credentials::Credentials;
use crate::mirror::Live;
use crate::platform::now;
use driver::{Driver, ReadBuffer};
use endpoint::Stream;

pub use backoff::{Attempt, Backoff};
pub use driver::Lost;
pub use endpoint::{Endpoint, EndpointError};
pub use keys::LinkKeys;
pub use line::{AskFailure, Asking, Line, WatchBatch, Watching};

/// The longest wait a host can ask for.
const LONGEST_GOAWAY: Duration = Duration::from_hours(1);

/// What the host gave this guest. It belongs to one thread.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// The instance's data.
    pub mirror: Rc<Live>,
    /// Its token, and the credentials of its roles.
    pub credentials: Rc<Credentials>,
    /// What its root proves itself by to the host.
    pub keys: Rc<LinkKeys>,
}

/// Keeps a session with the host open until `stop` is cancelled.
///
/// What was given and the line live on between sessions. Dropping the future cuts the connection.
pub async fn keep(endpoint: &Endpoint, line: &Line, given: &Given, stop: &CancellationToken) {
    let mut backoff = Backoff::default();
    let mut buffer = ReadBuffer::default();
    loop {
        let ended = attempt(endpoint, line, given, &mut buffer, backoff.patience(), stop).await;
        line.lost(&ended.lost, now());
        if stop.is_cancelled() {
            return;
        }
        if ended.led_anywhere {
            backoff.reset();
        }
        let attempt = backoff.attempt();
        let wait = ended.lost.asked_wait().min(LONGEST_GOAWAY) + backoff.next(random());
        report(&ended.lost, endpoint, wait, attempt);
        // Both arms only wait; nothing is lost with either.
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// How an attempt ended, and whether it led anywhere.
struct Ended {
    lost: Lost,
    led_anywhere: bool,
}

/// Dials once, and runs the session that comes of it until it ends.
async fn attempt(
    endpoint: &Endpoint,
    line: &Line,
    given: &Given,
    buffer: &mut ReadBuffer,
    patience: Duration,
    stop: &CancellationToken,
) -> Ended {
    match stop
        .run_until_cancelled(dial(endpoint, patience))
        .await
        .unwrap_or(Err(Lost::Stopped))
    {
        Err(lost) => Ended {
            lost,
            led_anywhere: false,
        },
        Ok(stream) => {
            let mut driver = Driver::begin(stream, line, given, buffer);
            let lost = driver.run(stop).await;
            Ended {
                led_anywhere: driver.led_anywhere(&lost),
                lost,
            }
        }
    }
}

/// A host that is not there may leave it to the guest's kernel to give up, which takes it 2 s over `AF_VSOCK`.
async fn dial(endpoint: &Endpoint, patience: Duration) -> Result<Stream, Lost> {
    match timeout(patience, endpoint.connect()).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(Lost::Connect(error)),
        Err(_) => Err(Lost::ConnectTimeout(patience)),
    }
}

/// Says once that the host is away; the attempts after that are for those who look closely.
fn report(lost: &Lost, endpoint: &Endpoint, wait: Duration, attempt: Attempt) {
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let reason = lost.with_cause();
    match attempt {
        Attempt::First => {
            tracing::warn!(%endpoint, wait_ms, %reason, "no session with the host; dialling again");
        }
        Attempt::Again => tracing::debug!(%endpoint, wait_ms, %reason, "still no session with the host"),
    }
}

fn random() -> u64 {
    // Without the kernel's random numbers the clock spreads guests well enough.
    getrandom::u64().unwrap_or_else(|_| now().0)
}
