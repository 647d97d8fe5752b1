//! The uplink: the feed down, reports up, and the requests that guests make of the control plane.
//!
//! [`Uplink::run`] registers the host and then keeps three tasks: `feed` keeps the shards in step with the control
//! plane, looks from time to time whether they are (`sync` is how), and says what is wanted of the machines; `reports`
//! says what became of them, until the control plane has answered; `questions` asks in the name of guests what the shards
//! can't answer. Each reaches the control plane by itself: none waits for another, and a shard waits for none.

mod assembly;
mod backoff;
mod feed;
mod interests;
mod questions;
mod reports;
mod sync;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use moorline_client::Client;
use moorline_client::fresh_key;
use moorline_shared::api::feed::InstanceSpec;
use moorline_shared::api::hosts::RegisterHost;
use moorline_shared::{HostId, InstanceId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::causes::Causes;
use crate::config::ControlConfig;
use crate::credentials;
use crate::identity::HostIdentity;
use crate::link::{Ask, ShardsHandle};
use crate::parts::{PartError, Parts};
use crate::persistence::{self, Restored};
pub use assembly::{Assembly, Batch, Misplaced, Whole};
use backoff::Backoff;
use feed::Feed;
pub use interests::{InterestChange, Interests};
use questions::Signing;
pub use reports::Reports;

/// What the feed says about the VMs of this host, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpecChange {
    /// An instance of this host, new or changed.
    Set(InstanceSpec),
    /// An instance that is no longer this host's.
    Gone(InstanceId),
    /// Every instance of this host was named since the daemon started; one that was not is not this host's.
    Complete,
}

/// The way to the control plane.
#[derive(Debug)]
pub struct Uplink {
    /// Who this host is, to the control plane.
    pub client: Client,
    /// What it signs with that it passes guests' requests on.
    pub identity: HostIdentity,
    /// Its name.
    pub host: HostId,
    /// What it says of itself.
    pub offer: RegisterHost,
    /// The guests.
    pub shards: ShardsHandle,
    /// What the shards ask.
    pub asks: mpsc::Receiver<Ask>,
    /// What became of the machines.
    pub reports: mpsc::UnboundedReceiver<moorline_shared::api::hosts::ReportState>,
    /// Where what is wanted of the machines goes.
    pub specs: mpsc::Sender<SpecChange>,
    /// Who gives guests their credentials, and hears the same.
    pub credentials: credentials::Handle,
    /// What an earlier daemon had, and who is told what has to be on disk.
    pub kept: (Restored, persistence::Handle),
    /// How it keeps in step beside the feed.
    pub control: ControlConfig,
}

impl Uplink {
    /// Runs until it is cancelled. Fails when one of its tasks ends before that; the others are ended then.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), PartError> {
        let (interests, changes) = mpsc::unbounded_channel();
        let cancel = cancel.child_token();
        let mut parts = Parts::new(cancel.clone());
        let asking = questions::answer(
            Signing {
                client: self.client.clone(),
                identity: self.identity,
                credentials: self.credentials.clone(),
                clock: Arc::default(),
            },
            self.shards.clone(),
            self.asks,
            interests,
            cancel.clone(),
        );
        parts.add("the questions of guests", asking);
        let known = async move {
            if register(&self.client, &self.host, &self.offer, &cancel).await == Registered::Cancelled {
                return Ok(());
            }
            let mut parts = Parts::new(cancel.clone());
            let (client, host) = (self.client.clone(), self.host.clone());
            parts.add(
                "reporting",
                reports::deliver(client, host, self.reports, cancel.clone()),
            );
            let feed = Feed::new(
                self.client,
                self.host,
                self.shards,
                (self.specs, self.credentials),
                changes,
                self.kept,
                &self.control,
            );
            parts.add("the feed", feed.run(cancel));
            parts.run().await
        };
        parts.add_fallible("the registered host", known);
        parts.run().await
    }
}

#[derive(PartialEq, Eq)]
enum Registered {
    Yes,
    Cancelled,
}

/// Says what the host is, again and again until the control plane has taken it.
async fn register(
    client: &Client,
    host: &HostId,
    offer: &RegisterHost,
    cancel: &CancellationToken,
) -> Registered {
    let key = fresh_key();
    let mut backoff = Backoff::new();
    loop {
        // Cancel-safe: the same key is sent again, so it doesn't matter whether a dropped call was done.
        let registered = tokio::select! {
            () = cancel.cancelled() => return Registered::Cancelled,
            registered = client.register_host(host, offer, &key) => registered,
        };
        let Err(error) = registered else {
            return Registered::Yes;
        };
        let wait = backoff.next();
        tracing::warn!(error = %Causes(&error), ?wait, "the host can't be registered yet");
        // Cancel-safe: nothing is held during the pause.
        tokio::select! {
            () = cancel.cancelled() => return Registered::Cancelled,
            () = tokio::time::sleep(wait) => {}
        }
    }
}
