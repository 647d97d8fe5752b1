//! The task that keeps the table: hears what happens, fetches, and gives.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use moorline_client::Client;
use moorline_shared::api::feed::{MAX_SILENCE_MS, Revocation};
use moorline_shared::host::CredentialStatus;
use moorline_shared::link::Moment;
use moorline_shared::{Digest, HostId, InstanceId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::config::Roles;
use super::fetch::Fetcher;
use super::generations::Generations;
use super::sources::Clients;
use super::table::{Action, Come, Item, Knowledge, Table, Ticket, Vouched};
use crate::link::{Notice, ShardsHandle, now};
use crate::uplink::SpecChange;

/// The longest wait. The system's timers stand still while it is suspended, deadlines don't.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long a guest's request waits for the control plane to say whether its session stands.
const ASKING: Duration = Duration::from_secs(3);

/// What the rest of the daemon tells and asks.
#[derive(Debug)]
enum Event {
    Spec(SpecChange),
    Revoked(Revocation),
    Vouch(InstanceId, Digest, oneshot::Sender<Vouched>),
    Status(oneshot::Sender<Status>),
}

type Status = BTreeMap<InstanceId, Vec<CredentialStatus>>;

/// The way to the credentials, from anywhere in the daemon. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    events: mpsc::UnboundedSender<Event>,
    /// When the feed last said that it had told all that was revoked.
    heard: watch::Sender<Option<Moment>>,
}

/// The other end of a [`Handle`], for [`Credentials::new`].
#[derive(Debug)]
pub struct Events {
    events: mpsc::UnboundedReceiver<Event>,
    heard: watch::Receiver<Option<Moment>>,
}

/// Why a guest's request isn't vouched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotVouched {
    /// The session that it is made in was ended.
    #[error(
        "the instance's session was ended, and nothing is done in it: the instance gets another when it was stopped and started again"
    )]
    Ended,
    /// The host has not heard what was revoked, and can't ask.
    #[error(
        "the host is cut off from the control plane, and can't know whether the instance's session still stands: ask again later"
    )]
    Unknown,
}

/// A handle, and where what it is told arrives.
pub fn channel() -> (Handle, Events) {
    let (sender, events) = mpsc::unbounded_channel();
    let (heard, hearing) = watch::channel(None);
    let handle = Handle {
        events: sender,
        heard,
    };
    (
        handle,
        Events {
            events,
            heard: hearing,
        },
    )
}

impl Handle {
    /// The feed says something about the instances of this host.
    pub fn spec(&self, change: &SpecChange) {
        // Nobody is given anything while the daemon ends.
        let _ = self.events.send(Event::Spec(change.clone()));
    }

    /// The feed says that something is worth nothing any more. What a guest has of it is taken back.
    pub fn revoked(&self, revocation: Revocation) {
        // Nobody is given anything while the daemon ends.
        let _ = self.events.send(Event::Revoked(revocation));
    }

    /// At this moment the feed had told all that was revoked.
    pub fn heard(&self, now: Moment) {
        self.heard.send_replace(Some(now));
    }

    /// Whether a guest's request that shows this token may be vouched for. If the feed is silent, the control plane is
    /// asked first. One that shows a token which this host doesn't know, or none, is vouched for unless the instance's
    /// session was ended. Dropping the future is harmless.
    ///
    /// # Errors
    /// [`NotVouched`] if the session was ended, or that can't be known within a few seconds.
    pub async fn vouch(&self, instance: InstanceId, token: &str) -> Result<(), NotVouched> {
        let (sender, receiver) = oneshot::channel();
        let token = Digest::of(token.as_bytes());
        let _ = self.events.send(Event::Vouch(instance, token, sender));
        match timeout(ASKING, receiver).await {
            Ok(Ok(Vouched::Good)) => Ok(()),
            Ok(Ok(Vouched::Ended)) => Err(NotVouched::Ended),
            Ok(Ok(Vouched::Asked) | Err(_)) | Err(_) => Err(NotVouched::Unknown),
        }
    }

    /// What each instance has, by names, kinds and times; nothing while the daemon ends.
    pub async fn status(&self) -> BTreeMap<InstanceId, Vec<CredentialStatus>> {
        let (sender, receiver) = oneshot::channel();
        let _ = self.events.send(Event::Status(sender));
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
    generations: Generations,
    fetches: JoinSet<(Ticket, Result<Come, String>)>,
    under_way: HashMap<Ticket, (AbortHandle, InstanceId, Item)>,
    /// Requests that wait for what the control plane says of the instance's session.
    waiting: HashMap<InstanceId, Vec<(Digest, oneshot::Sender<Vouched>)>>,
}

/// What came of asking the control plane.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Answered,
    InVain,
}

impl Credentials {
    /// Nobody has anything yet. Make it before the first life of a VM begins, or that one's guest gets nothing.
    pub fn new(
        host: HostId,
        control: Client,
        roles: Roles,
        shards: ShardsHandle,
        generations: Generations,
        events: Events,
    ) -> Self {
        let (sender, notices) = mpsc::unbounded_channel();
        shards.notify(&sender);
        // Without random bytes the hosts that started at one moment keep the same times, which is only worse.
        let seed = getrandom::u64().unwrap_or_else(|_| now().0);
        Self {
            table: Table::new(roles.clone(), generations.load(), seed),
            fetcher: Fetcher {
                host,
                control,
                roles: Arc::new(roles),
                clients: Clients::default(),
            },
            shards,
            events,
            notices,
            generations,
            fetches: JoinSet::new(),
            under_way: HashMap::new(),
            waiting: HashMap::new(),
        }
    }

    /// Serves until it is cancelled. What is being fetched then is given up, and what is to be on disk is written.
    pub async fn run(mut self, cancel: CancellationToken) {
        loop {
            self.look_at_the_feed();
            self.table.tick(now());
            self.act();
            let wait = self.wait();
            // Each arm takes one thing out of a queue or nothing at all, so that one that loses has lost nothing.
            tokio::select! {
                () = cancel.cancelled() => break,
                Some(event) = self.events.events.recv() => self.on_event(event),
                Ok(()) = self.events.heard.changed(), if self.table.knowledge() == Knowledge::Doubt => {}
                Some(notice) = self.notices.recv() => self.table.notice(notice, now()),
                Some(ended) = self.fetches.join_next() => self.on_fetched(ended),
                Some(()) = self.generations.wrote() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.fetches.shutdown().await;
        self.generations.finish().await;
    }

    /// Takes in what the feed said before it is believed to have said everything.
    fn look_at_the_feed(&mut self) {
        let heard = *self.events.heard.borrow_and_update();
        while let Ok(event) = self.events.events.try_recv() {
            self.on_event(event);
        }
        let silent = heard.is_none_or(|heard| now().since(heard) > MAX_SILENCE_MS);
        let knowledge = if silent {
            Knowledge::Doubt
        } else {
            Knowledge::Certain
        };
        let before = self.table.knowledge();
        self.table.know(knowledge, now());
        match (before, self.table.knowledge()) {
            // Between two polls that is how it is.
            (Knowledge::Certain | Knowledge::Doubt, _) if self.shards.feed_clock().is_polled() => {}
            (Knowledge::Certain, Knowledge::Doubt) => {
                tracing::warn!("the feed is silent: no token is given out without asking the control plane");
            }
            (Knowledge::Doubt, Knowledge::Certain) => tracing::info!("it is known what was revoked"),
            _ => {}
        }
    }

    fn wait(&self) -> Duration {
        let doubt = self
            .events
            .heard
            .borrow()
            .map(|heard| Moment(heard.0.saturating_add(MAX_SILENCE_MS + 1)));
        let doubt = doubt.filter(|_| self.table.knowledge() == Knowledge::Certain);
        let next = [self.table.next(), doubt].into_iter().flatten().min();
        let next = next.map_or(LONGEST_WAIT, |next| {
            Duration::from_millis(next.since(now()).max(1))
        });
        next.min(LONGEST_WAIT)
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Spec(SpecChange::Set(spec)) => self.table.set(&spec, now()),
            Event::Spec(SpecChange::Gone(instance)) => {
                self.table.gone(instance);
                // Nothing is asked for it any more.
                self.answer_waiting(instance, Asked::InVain);
            }
            Event::Spec(SpecChange::Complete) => self.table.complete(),
            Event::Revoked(revocation) => {
                self.table.revoked(&revocation, now());
                self.answer_ended();
            }
            Event::Vouch(instance, token, reply) => self.vouch(instance, token, reply),
            // Who asked may be gone.
            Event::Status(reply) => drop(reply.send(self.table.status(now()))),
        }
    }

    fn vouch(&mut self, instance: InstanceId, token: Digest, reply: oneshot::Sender<Vouched>) {
        match self.table.vouch(instance, &token, now()) {
            Vouched::Asked => {
                let waiting = self.waiting.entry(instance).or_default();
                // Those that nobody waits for any more go with the next that asks.
                waiting.retain(|(_, reply)| !reply.is_closed());
                waiting.push((token, reply));
            }
            // Who asked may be gone.
            known => drop(reply.send(known)),
        }
    }

    /// Answers those who wait for what the control plane says of an instance's session.
    fn answer_waiting(&mut self, instance: InstanceId, asked: Asked) {
        for (token, reply) in self.waiting.remove(&instance).unwrap_or_default() {
            let vouched = match asked {
                Asked::Answered => self.table.vouch_asked(instance, &token, now()),
                Asked::InVain => Vouched::Asked,
            };
            // Who asked may be gone.
            let _ = reply.send(vouched);
        }
    }

    /// Answers those whose session is known to be ended: what they wait for is given up, or would tell nothing else.
    fn answer_ended(&mut self) {
        for (instance, waiting) in &mut self.waiting {
            let ended =
                waiting.extract_if(.., |(token, _)| self.table.is_known_dead(*instance, token, now()));
            for (_, reply) in ended {
                // Who asked may be gone.
                let _ = reply.send(Vouched::Ended);
            }
        }
        self.waiting.retain(|_, waiting| !waiting.is_empty());
    }

    fn on_fetched(&mut self, ended: Result<(Ticket, Result<Come, String>), JoinError>) {
        // One that was given up ends as cancelled; a defect of a source ends the daemon, as any other.
        let (ticket, come) = match ended {
            Ok(fetched) => fetched,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return,
        };
        let asked = if come.is_ok() {
            Asked::Answered
        } else {
            Asked::InVain
        };
        let fetched = self.under_way.remove(&ticket);
        if let Some((_, instance, item)) = &fetched {
            match &come {
                Ok(_) => tracing::debug!(%instance, ?item, "credentials came"),
                Err(error) => tracing::warn!(%instance, ?item, error, "no credentials came"),
            }
        }
        self.table.fetched(ticket, come, now());
        if let Some((_, instance, Item::Session)) = fetched {
            self.answer_waiting(instance, asked);
        }
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
                Action::Keep(instance, generation) => self.generations.keep(instance, generation),
            }
        }
    }
}
