//! The task that keeps the table: hears what happens, fetches, and gives.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use moorline_client::Client;
use moorline_shared::host::CredentialStatus;
use moorline_shared::{HostId, InstanceId};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::config::Roles;
use super::fetch::Fetcher;
use super::sources::Clients;
use super::table::{Action, Come, Item, Table, Ticket};
use crate::link::{Notice, ShardsHandle, now};
use crate::uplink::SpecChange;

/// The longest wait. The system's timers stand still while it is suspended, deadlines don't.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What the rest of the daemon tells and asks.
#[derive(Debug)]
enum Event {
    Spec(SpecChange),
    Revoked(String),
    Status(oneshot::Sender<Status>),
}

type Status = BTreeMap<InstanceId, Vec<CredentialStatus>>;

/// The way to the credentials, from anywhere in the daemon. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle(mpsc::UnboundedSender<Event>);

/// The other end of a [`Handle`], for [`Credentials::new`].
#[derive(Debug)]
pub struct Events(mpsc::UnboundedReceiver<Event>);

/// A handle, and where what it is told arrives.
pub fn channel() -> (Handle, Events) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Handle(sender), Events(receiver))
}

impl Handle {
    /// The feed says something about the instances of this host.
    pub fn spec(&self, change: &SpecChange) {
        // Nobody is given anything while the daemon ends.
        let _ = self.0.send(Event::Spec(change.clone()));
    }

    /// The control plane has ended a session. If it is an instance's, the instance's token is dropped, and what was
    /// made of it.
    pub fn revoked(&self, session: &str) {
        // Nobody is given anything while the daemon ends.
        let _ = self.0.send(Event::Revoked(session.to_owned()));
    }

    /// What each instance has, by names, kinds and times; nothing while the daemon ends.
    pub async fn status(&self) -> BTreeMap<InstanceId, Vec<CredentialStatus>> {
        let (sender, receiver) = oneshot::channel();
        let _ = self.0.send(Event::Status(sender));
        receiver.await.unwrap_or_default()
    }
}

/// The credentials of this host's guests.
#[derive(Debug)]
pub struct Credentials {
    table: Table,
    fetcher: Fetcher,
    shards: ShardsHandle,
    events: Events,
    notices: mpsc::UnboundedReceiver<Notice>,
    fetches: JoinSet<(Ticket, Result<Come, String>)>,
    under_way: HashMap<Ticket, (AbortHandle, InstanceId, Item)>,
}

impl Credentials {
    /// Nobody has anything yet. Make it before the first life of a VM begins, or that one's guest gets nothing.
    pub fn new(host: HostId, control: Client, roles: Roles, shards: ShardsHandle, events: Events) -> Self {
        let (sender, notices) = mpsc::unbounded_channel();
        shards.notify(&sender);
        // Without random bytes the hosts that started at one moment keep the same times, which is only worse.
        let seed = getrandom::u64().unwrap_or_else(|_| now().0);
        Self {
            table: Table::new(roles.clone(), seed),
            fetcher: Fetcher {
                host,
                control,
                roles: Arc::new(roles),
                clients: Clients::default(),
            },
            shards,
            events,
            notices,
            fetches: JoinSet::new(),
            under_way: HashMap::new(),
        }
    }

    /// Serves until it is cancelled. What is being fetched then is given up.
    pub async fn run(mut self, cancel: CancellationToken) {
        loop {
            self.table.tick(now());
            self.act();
            let wait = self.wait();
            // Each arm takes one thing out of a queue or nothing at all, so that one that loses has lost nothing.
            tokio::select! {
                () = cancel.cancelled() => break,
                Some(event) = self.events.0.recv() => self.on_event(event),
                Some(notice) = self.notices.recv() => self.table.notice(notice, now()),
                Some(ended) = self.fetches.join_next() => self.on_fetched(ended),
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.fetches.shutdown().await;
    }

    fn wait(&self) -> Duration {
        let next = self.table.next().map_or(LONGEST_WAIT, |next| {
            Duration::from_millis(next.since(now()).max(1))
        });
        next.min(LONGEST_WAIT)
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Spec(SpecChange::Set(spec)) => self.table.set(&spec, now()),
            Event::Spec(SpecChange::Gone(instance)) => self.table.gone(instance),
            Event::Spec(SpecChange::Complete) => {}
            Event::Revoked(session) => self.table.revoked(&session),
            // Who asked may be gone.
            Event::Status(reply) => drop(reply.send(self.table.status(now()))),
        }
    }

    fn on_fetched(&mut self, ended: Result<(Ticket, Result<Come, String>), JoinError>) {
        // One that was given up ends as cancelled; a defect of a source ends the daemon, as any other.
        let (ticket, come) = match ended {
            Ok(fetched) => fetched,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return,
        };
        if let Some((_, instance, item)) = self.under_way.remove(&ticket) {
            match &come {
                Ok(_) => tracing::debug!(%instance, ?item, "credentials came"),
                Err(error) => tracing::warn!(%instance, ?item, error, "no credentials came"),
            }
        }
        self.table.fetched(ticket, come, now());
    }

    fn act(&mut self) {
        for action in self.table.take_actions() {
            match action {
                Action::Fetch(ticket, wanted) => {
                    let (instance, item) = (wanted.instance, wanted.item.clone());
                    let fetcher = self.fetcher.clone();
                    let fetch = self
                        .fetches
                        .spawn(async move { (ticket, fetcher.fetch(wanted).await) });
                    self.under_way.insert(ticket, (fetch, instance, item));
                }
                Action::Abandon(ticket) => {
                    if let Some((fetch, ..)) = self.under_way.remove(&ticket) {
                        fetch.abort();
                    }
                }
                Action::Tell(instance, incarnation, grant) => self.shards.grant(instance, incarnation, grant),
            }
        }
    }
}
