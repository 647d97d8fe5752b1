//! By which certificates hosts are known, in memory: looked up at every request, and told to every connection.
//!
//! It is brought in step in the order of the store's transactions. Whoever has just committed one waits for it with
//! [`Hosts::reach`], so that a host that was revoked is refused in this process before the request that revoked it is
//! answered.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use moorline_shared::{HostId, Timestamp};
use tokio_util::sync::CancellationToken;

use super::records::{Certificate, HostIdentity, Standing};
use crate::identity::authority::peer::HostCertificate;
use crate::store::follow::{FollowError, Follower, Image};
use crate::store::{Event, Store};

/// For how long after a renewal the certificate before is good too, in milliseconds: what was on its way arrives, and a
/// host that didn't hear the answer goes on until it does.
pub const OVERLAP_MS: u64 = 300_000;

/// Every host that is enrolled. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Hosts(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    known: RwLock<HashMap<HostId, Known>>,
    follower: Follower,
}

#[derive(Debug)]
struct Known {
    identity: HostIdentity,
    /// Cancelled when nothing that this enrolment began may go on.
    over: CancellationToken,
}

/// Why a certificate doesn't count now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotGood {
    /// The host was never enrolled here.
    #[error("the host is not enrolled here")]
    Unknown,
    /// An operator revoked the host.
    #[error("the host was revoked")]
    Revoked,
    /// Two machines use one certificate.
    #[error("two machines use the host's certificate, so that neither may")]
    Cloned,
    /// The host has a later one.
    #[error(
        "the host has a later certificate; if it is not this machine that has it, two machines are this host"
    )]
    Superseded,
    /// It has ended, and is good for renewal only.
    #[error("the certificate expired at {0}, and is good for its renewal only")]
    Expired(Timestamp),
}

impl Known {
    /// The certificate that is shown, if it is one that counts at `now` or would if it had not expired.
    fn counts(&self, generation: u64, serial: &str, now: Timestamp) -> bool {
        let is = |certificate: &Certificate| {
            certificate.generation == generation && certificate.serial.to_string() == serial
        };
        let present = &self.identity.certificate;
        let overlaps = present.from.millis_until(now) <= OVERLAP_MS;
        // A later one was issued by what a backup has brought back to before.
        is(present)
            || generation > present.generation
            || overlaps && self.identity.previous.as_ref().is_some_and(is)
    }
}

impl Hosts {
    /// All hosts that the store has now.
    pub async fn open(store: Store) -> Result<Self, FollowError> {
        let head = store.head().await?;
        let shared = Shared {
            known: RwLock::default(),
            follower: Follower::new(store),
        };
        let hosts = Self(Arc::new(shared));
        hosts.reach(head).await?;
        Ok(hosts)
    }

    /// Whether a certificate of ours counts at `now`.
    pub fn judge(&self, shown: &HostCertificate, now: Timestamp) -> Result<(), NotGood> {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        let known = known.get(&shown.host).ok_or(NotGood::Unknown)?;
        match known.identity.standing {
            Standing::Enrolled => {}
            Standing::Revoked => return Err(NotGood::Revoked),
            Standing::Cloned => return Err(NotGood::Cloned),
        }
        if !known.counts(shown.generation, &shown.serial, now) {
            return Err(NotGood::Superseded);
        }
        if now >= shown.not_after {
            return Err(NotGood::Expired(shown.not_after));
        }
        Ok(())
    }

    /// What is cancelled when a connection that is made with this certificate must end: the host is revoked, cloned, or
    /// enrolled anew. Whatever it asks meanwhile is [judged](Self::judge) all the same.
    pub fn over(&self, host: &HostId) -> CancellationToken {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        known
            .get(host)
            .map(|known| known.over.clone())
            .unwrap_or_default()
    }

    /// The public key that a host's signature under the certificate with this number is verified with, if that certificate
    /// counts at `now`: a point of P-256 as ring takes it.
    pub fn public_key(&self, host: &HostId, serial: &str, now: Timestamp) -> Option<Vec<u8>> {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        let known = known.get(host)?;
        let identity = &known.identity;
        let all = [Some(&identity.certificate), identity.previous.as_ref()];
        let found = all
            .into_iter()
            .flatten()
            .find(|one| one.serial.to_string() == serial)?;
        let counts = identity.standing == Standing::Enrolled
            && now < found.until
            && known.counts(found.generation, serial, now);
        counts.then(|| found.public_key.point().to_vec())
    }

    /// Waits until the transaction `n` is taken in. Cancel-safe.
    pub async fn reach(&self, n: u64) -> Result<(), FollowError> {
        self.0.follower.reach(n, self).await
    }

    fn apply(&self, event: &Event) {
        let Some(host) = event.key.as_bytes().strip_prefix(b"host-identity/") else {
            return;
        };
        let Some(host) = std::str::from_utf8(host).ok().and_then(|host| host.parse().ok()) else {
            return;
        };
        let identity = event
            .value
            .as_ref()
            .map(|kept| serde_json::from_slice(&kept.value));
        match identity.transpose() {
            Ok(identity) => self.set(host, identity),
            // What can't be read gives nobody any right.
            Err(error) => {
                tracing::error!(%host, %error, "a host's identity can't be read; a newer release wrote it or it is damaged");
                self.set(host, None);
            }
        }
    }

    fn set(&self, host: HostId, identity: Option<HostIdentity>) {
        let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        let before = known.remove(&host);
        let Some(identity) = identity else {
            before.inspect(|before| before.over.cancel());
            return;
        };
        let goes_on = |before: &Known| {
            identity.standing == Standing::Enrolled && before.identity.enrolled_at == identity.enrolled_at
        };
        let over = match before {
            Some(before) if goes_on(&before) => before.over,
            other => {
                other.inspect(|before| before.over.cancel());
                CancellationToken::new()
            }
        };
        known.insert(host, Known { identity, over });
    }
}

impl Image for Hosts {
    type Error = FollowError;
    const PREFIXES: &'static [&'static str] = &["host-identity/"];

    /// A host that is still there goes on as it was when it is read anew, so that its connections do.
    fn clear(&self) {}

    fn take<'e>(&self, events: impl Iterator<Item = &'e Event>) -> Result<(), FollowError> {
        events.for_each(|event| self.apply(event));
        Ok(())
    }
}

/// Keeps the hosts in step until cancelled.
///
/// # Errors
/// [`FollowError`] if the store ended or can't be read: without it nothing that is revoked would be known here.
pub async fn run(hosts: Hosts, cancel: CancellationToken) -> Result<(), FollowError> {
    hosts.0.follower.run(&hosts, cancel).await
}
