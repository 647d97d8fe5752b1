//! Asks for the host's next certificate in time, and has everything use it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moorline_client::{Client, ClientError, fresh_key};
use moorline_shared::api::enrolment::RenewHostCertificate;
use moorline_shared::{HostId, Timestamp};
use tokio_util::sync::CancellationToken;

use super::files::{FileError, Files};
use super::key::{self, KeyError};
use super::{HostIdentity, Present};
use crate::causes::Causes;

/// After how long it is looked at the clock again at the latest: it may be set meanwhile, or the machine sleep.
const LOOK: Duration = Duration::from_hours(1);
/// The first wait after an attempt that failed, and the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_mins(5);
/// How long is waited after a refusal that asking again doesn't change, but an operator may.
const REFUSED_WAIT: Duration = Duration::from_mins(5);

/// Keeps the host's certificate young.
#[derive(Debug)]
pub struct Renewal {
    /// What is renewed.
    pub identity: HostIdentity,
    /// Which host it is.
    pub host: HostId,
    /// The client that shows it.
    pub client: Client,
    /// Where it is kept.
    pub files: Files,
}

/// Why there is no next certificate yet.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("the control plane gave no next certificate")]
    Asked(#[from] ClientError),
    #[error(transparent)]
    Files(#[from] FileError),
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl RenewError {
    /// Whether the control plane said that this certificate counts no more.
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Asked(error) if error.problem().is_some_and(|problem| problem.status < 500))
    }
}

/// When the next certificate is asked for: at a third of the present one's life, or up to a tenth of that earlier, so that
/// hosts that were enrolled together don't come together. `early` is 0 to 1.
fn due(present: &Present, early: f64) -> Timestamp {
    let (from, until) = present.validity();
    let life = Duration::from_millis(from.millis_until(until));
    let after = life.mul_f64((1.0 - early.clamp(0.0, 1.0) / 10.0) / 3.0);
    let after = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(from.millis().saturating_add(after)).unwrap_or(until)
}

/// How long is waited after the `attempt`-th failure, from 0. `part` is 0 to 1, and keeps hosts apart that failed together.
fn wait_after(error: &RenewError, attempt: u32, part: f64) -> Duration {
    let longest = if error.is_refusal() {
        REFUSED_WAIT
    } else {
        FIRST_WAIT.saturating_mul(1 << attempt.min(16)).min(LONGEST_WAIT)
    };
    longest.mul_f64(part.clamp(0.1, 1.0))
}

impl Renewal {
    /// Renews until it is cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        // Cancel-safe: a certificate that was issued and not kept is asked for again with the same key.
        cancel.run_until_cancelled(self.renew_for_ever()).await;
    }

    async fn renew_for_ever(self) {
        loop {
            let due = due(&self.identity.present(), random());
            while let left @ 1.. = now().millis_until(due) {
                tokio::time::sleep(Duration::from_millis(left).min(LOOK)).await;
            }
            self.renew().await;
        }
    }

    /// Asks until there is a next certificate.
    async fn renew(&self) {
        for attempt in 0.. {
            let Err(error) = self.renew_once().await else {
                return;
            };
            let (_, until) = self.identity.present().validity();
            tracing::error!(error = %Causes(&error), %until, "the host's certificate is not renewed");
            tokio::time::sleep(wait_after(&error, attempt, random())).await;
        }
    }

    async fn renew_once(&self) -> Result<(), RenewError> {
        let key = self.files.next_key()?;
        let body = RenewHostCertificate {
            request: key::request(&key)?,
        };
        let issued = self
            .client
            .renew_host_certificate(&self.host, &body, &fresh_key())
            .await?;
        let next = self.files.keep(&self.host, &issued.certificate, &key)?;
        self.client.identify(next.shown())?;
        tracing::info!(
            generation = issued.generation,
            until = %issued.expires_at,
            "the host's certificate is renewed"
        );
        self.identity.replace(next);
        Ok(())
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(millis).unwrap_or_else(|| Timestamp::from_millis(0).expect("1970 is a time"))
}

/// Between 0 and 1. Without random bytes it is 1, which is only late or early.
fn random() -> f64 {
    let random = getrandom::u32().unwrap_or(u32::MAX);
    f64::from(random) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests;
