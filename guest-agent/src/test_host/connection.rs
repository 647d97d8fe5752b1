//! One guest's connection to the test host.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use moorline_shared::api::{OPERATION, SERVER_TIME};
use moorline_shared::digest::{Row, ViewDigest};
use moorline_shared::entry::Value;
use moorline_shared::link::body::{
    AsOf, Code, Found, Freshness, Hello, HelloAck, Item, LinkKey, Listed, Listing, MirrorDigest, Mirrored,
    Relay, Relayed, Secrets, Standing,
};
use moorline_shared::link::session::{Batch, DEFAULT_LIMITS, HEARTBEAT_MS, Host, HostEvent, Told};
use moorline_shared::link::{KindSet, StreamId};
use moorline_shared::secret::SecretKey;
use moorline_shared::signature::{Input, SIGNATURE_INPUT, WINDOW_SECONDS};
use moorline_shared::{Digest, EntryPath, InstanceId, PathPrefix, Revision, Timestamp};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::{Answers, Give, Lock, OTHER, Order, TestHost, plane};
use crate::platform::now;

pub(super) struct Connection {
    host: TestHost,
    stream: UnixStream,
    core: Host,
    /// Where the guest stands; `None` until HELLO and after a gap.
    sent: Option<u64>,
    welcome: bool,
    /// What the guest was told last.
    standing: Option<(Freshness, u32)>,
    watches: BTreeMap<StreamId, (PathPrefix, Option<Sent>)>,
}

type Ends = Option<()>;
/// What a batch builds on, where it leads, and what it has.
type Next = ((Option<Revision>, Revision), Vec<Item>);
/// The revision a watch stands at, and what it has seen.
type Sent = (u64, BTreeMap<EntryPath, Mirrored>);

impl Connection {
    pub(super) fn new(host: TestHost, stream: UnixStream) -> Self {
        let core = Host::new(DEFAULT_LIMITS, [9; 16], now());
        Self {
            host,
            stream,
            core,
            sent: None,
            welcome: false,
            standing: None,
            watches: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self) -> Ends {
        let mut input = BytesMut::new();
        let host = self.host.clone();
        loop {
            self.obey().await?;
            self.push();
            self.write().await?;
            host.happened.notify_waiters();
            tokio::select! {
                read = self.stream.read_buf(&mut input) => {
                    if read.ok()? == 0 {
                        return None;
                    }
                    let bytes = input.split();
                    let taken = self.feed(&bytes)?;
                    input.extend_from_slice(&bytes[taken..]);
                }
                () = host.wake.notified() => {}
            }
        }
    }

    /// Writes in pieces that no frame ends at.
    async fn write(&mut self) -> Ends {
        loop {
            let piece = self.core.outbox().output();
            if piece.is_empty() {
                return Some(());
            }
            let piece = piece[..piece.len().min(777)].to_vec();
            self.stream.write_all(&piece).await.ok()?;
            self.core.outbox().wrote(piece.len(), now());
        }
    }

    async fn obey(&mut self) -> Ends {
        if !self.welcome {
            return Some(());
        }
        let orders = std::mem::take(&mut self.host.state.borrow_mut().orders);
        for order in orders {
            match order {
                Order::Cut => return None,
                Order::GoAway(ms) => {
                    self.core.go_away("told to", ms, now());
                    self.write().await?;
                    return None;
                }
                Order::Give(give) => self.give(&give),
                Order::Raw(bytes) => self.stream.write_all(&bytes).await.ok()?,
                // The batch before may not be acknowledged yet; then this one goes with the next round.
                later if !self.core.can_push(StreamId::SESSION) => {
                    self.host.state.borrow_mut().orders.push(later);
                }
                Order::Compare if self.sent != Some(self.host.state.borrow().revision) => {
                    self.host.state.borrow_mut().orders.push(Order::Compare);
                }
                Order::Compare => self.compare(),
                Order::Gap => self.odd_batch(1_000_000, 1_000_001, &[]),
                Order::RunOut(path) => {
                    let path = path.parse().unwrap();
                    self.host.state.borrow_mut().own.remove(&path);
                    let stands = self.sent.unwrap_or_default();
                    self.odd_batch(stands, stands, &[Item { path, entry: None }]);
                }
            }
        }
        Some(())
    }

    /// Says what the guest's mirror is if nothing went wrong.
    fn compare(&mut self) {
        let state = self.host.state.borrow();
        let rows = state.own.iter().map(|(path, entry)| Row {
            path: path.as_str(),
            revision: entry.revision,
            content_type: &entry.content_type,
            secret: state.secret.contains(path.as_str()),
            value: Digest::of(entry.value.bytes()),
        });
        let digest = MirrorDigest {
            revision: Revision::new(1, state.revision),
            digest: ViewDigest::of(rows),
        };
        assert_eq!(self.core.digest(&digest, now()), Told::Queued);
    }

    /// Sends a batch, and before it which of its entries are secret.
    fn batch(&mut self, stream: StreamId, (from, to): (Option<Revision>, Revision), items: &[Item]) {
        let secret = &self.host.state.borrow().secret;
        let marked = items.iter().enumerate();
        let marked = marked.filter(|(_, item)| item.entry.is_some() && secret.contains(item.path.as_str()));
        let secrets: Secrets = marked.map(|(place, _)| place).collect();
        tell_secrets(&mut self.core, stream, &secrets);
        let content = content(items);
        self.core.batch(stream, Batch { from, to, content });
    }

    fn odd_batch(&mut self, from: u64, to: u64, items: &[Item]) {
        let span = (Some(Revision::new(1, from)), Revision::new(1, to));
        self.batch(StreamId::SESSION, span, items);
    }

    fn push(&mut self) {
        if !self.welcome {
            return;
        }
        self.tell_standing();
        self.push_own();
        let streams: Vec<_> = self.watches.keys().copied().collect();
        for stream in streams {
            self.push_watch(stream);
        }
    }

    fn tell_standing(&mut self) {
        let state = self.host.state.borrow();
        if state.pull.is_some() {
            return;
        }
        if self.standing.replace(state.standing) != Some(state.standing) {
            let (freshness, age_ms) = state.standing;
            let standing = Standing {
                revision: Some(Revision::new(1, state.revision)),
                age_ms,
                freshness,
            };
            self.core.standing(&standing, now());
        }
    }

    fn push_own(&mut self) {
        if let Some((span, items)) = self.next_own() {
            self.batch(StreamId::SESSION, span, &items);
        }
        if self.core.is_asked() {
            self.answer_poll();
        }
    }

    fn answer_poll(&mut self) {
        let state = self.host.state.borrow();
        let as_of = AsOf {
            revision: Some(Revision::new(1, state.revision)),
            age_ms: state.standing.1,
            fresh_for_ms: 60_000,
        };
        assert_eq!(self.core.as_of(&as_of, now()), Told::Queued);
    }

    fn next_own(&mut self) -> Option<Next> {
        let state = &mut *self.host.state.borrow_mut();
        if self.sent == Some(state.revision) || !self.core.can_push(StreamId::SESSION) {
            return None;
        }
        let from = self
            .sent
            .filter(|sent| (sent + 1..=state.revision).all(|n| state.history.contains_key(&n)));
        let items: Vec<Item> = if let Some(sent) = from {
            let missed = state.history.range(sent + 1..);
            missed.flat_map(|(_, items)| items.clone()).collect()
        } else {
            state.snapshots += 1;
            let all = state
                .own
                .iter()
                .map(|(path, entry)| (path.clone(), Some(entry.clone())));
            all.map(|(path, entry)| Item { path, entry }).collect()
        };
        self.sent = Some(state.revision);
        let from = from.map(|n| Revision::new(1, n));
        Some(((from, Revision::new(1, state.revision)), items))
    }

    fn push_watch(&mut self, stream: StreamId) {
        if let Some((span, items)) = self.next_watched(stream) {
            self.batch(stream, span, &items);
        }
    }

    fn next_watched(&mut self, stream: StreamId) -> Option<Next> {
        let mut state = self.host.state.borrow_mut();
        let (prefix, sent) = self.watches.get_mut(&stream)?;
        if sent.as_ref().is_some_and(|(n, _)| *n == state.other_revision) || !self.core.can_push(stream) {
            return None;
        }
        let mut present = state.other.clone();
        present.retain(|path, _| prefix.covers(path));
        let none = BTreeMap::new();
        let before = sent.as_ref().map_or(&none, |(_, before)| before);
        let gone = before.keys().filter(|path| !present.contains_key(*path));
        let gone = gone.map(|path| Item {
            path: path.clone(),
            entry: None,
        });
        let changed = present
            .iter()
            .filter(|(path, entry)| before.get(*path) != Some(*entry));
        let changed = changed.map(|(path, entry)| Item {
            path: path.clone(),
            entry: Some(entry.clone()),
        });
        let items: Vec<_> = gone.chain(changed).collect();
        let from = sent.as_ref().map(|(n, _)| Revision::new(1, *n));
        state.watches += usize::from(from.is_none());
        let to = Revision::new(1, state.other_revision);
        *sent = Some((state.other_revision, present));
        Some(((from, to), items))
    }

    fn feed(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            let incoming = self.core.receive(&bytes[at..], now()).ok()?;
            at += incoming.taken;
            if incoming.taken == 0 {
                return Some(at);
            }
            if let Some(event) = incoming.event {
                self.act(event);
            }
        }
    }

    fn act(&mut self, event: HostEvent<'_>) {
        match event {
            HostEvent::Hello(hello) => self.hello(hello),
            HostEvent::Get(stream, get) => {
                let path = get.path.into_owned();
                self.host.state.borrow_mut().asked.push(path.clone());
                self.get(stream, get.instance, &path);
            }
            HostEvent::List(stream, list) => self.list(stream, &list.prefix, list.after.as_ref()),
            HostEvent::Watch(..) if self.host.state.borrow().answers == Answers::Never => {}
            HostEvent::Watch(stream, watch) if watch.prefix.as_str().starts_with("open") => {
                self.watches.insert(stream, (watch.prefix, None));
            }
            HostEvent::Watch(stream, _) => self.core.refuse(stream, Code::Denied, "withheld", now()),
            HostEvent::Relay(stream, relay) => self.relay(stream, relay),
            HostEvent::Cancelled(stream, _) => {
                self.watches.remove(&stream);
                self.host.state.borrow_mut().cancelled += 1;
            }
            HostEvent::Differs(_) => {
                self.host.state.borrow_mut().differed += 1;
                self.sent = None;
            }
            HostEvent::Poll => self.host.state.borrow_mut().polls += 1,
            HostEvent::Applied(..) | HostEvent::GoAway(_) => {}
        }
    }

    /// Whether HELLO passes, and the key that is given for it.
    fn judge(&self, hello: &Hello, lock: &mut Option<Lock>) -> Result<Option<SecretKey>, ()> {
        match lock.take() {
            Some(Lock::Unclaimed(key)) if hello.proof.is_none() => {
                *lock = Some(Lock::Claimed(key.clone()));
                Ok(Some(key))
            }
            Some(Lock::Claimed(key)) if self.core.proves(hello, &key) => {
                *lock = Some(Lock::Claimed(key));
                Ok(None)
            }
            None => Ok(None),
            other => {
                *lock = other;
                Err(())
            }
        }
    }

    fn hello(&mut self, hello: Hello) {
        let judged = self.judge(&hello, &mut self.host.state.borrow_mut().lock);
        let Ok(given) = judged else {
            self.host.state.borrow_mut().hellos.push(hello);
            self.core.deny(now());
            return self.core.go_away("not believed", 0, now());
        };
        let mut state = self.host.state.borrow_mut();
        let ack = HelloAck {
            kinds: KindSet::ours(),
            session: state.hellos.len() as u64 + 1,
            instance: state.instance,
            incarnation: state.incarnation,
            authority: state.authority.clone(),
            limits: DEFAULT_LIMITS,
            boottime_ms: 1,
            heartbeat_ms: HEARTBEAT_MS,
        };
        self.core.welcome(&hello, &ack, now());
        if let Some(pull) = state.pull {
            assert_eq!(self.core.pull(&pull, now()), Told::Queued);
        }
        if let Some(key) = given {
            let incarnation = state.incarnation;
            let told = self.core.link_key(&LinkKey { incarnation, key }, now());
            assert_eq!(told, Told::Queued);
        }
        let same = hello.incarnation == Some(state.incarnation);
        self.sent = hello.applied.filter(|_| same).map(|revision| revision.n);
        self.welcome = true;
        state.hellos.push(hello);
        let all = state.gives.clone();
        drop(state);
        for give in &all {
            self.give(give);
        }
    }

    fn give(&mut self, give: &Give) {
        let told = match give {
            Give::Session(session) => self.core.session(session, now()),
            Give::Credential(credential) => self.core.credential(credential, now()),
        };
        assert_eq!(told, Told::Queued);
    }

    fn get(&mut self, stream: StreamId, instance: Option<InstanceId>, path: &str) {
        let secret = self.host.state.borrow().secret.contains(path);
        let state = self.host.state.borrow();
        let entries = if instance == Some(OTHER) {
            &state.other
        } else {
            &state.own
        };
        match (state.answers, entries.get(path)) {
            (Answers::Never, _) => drop(self.core.defer(stream, now())),
            (Answers::Busy, _) => self.core.busy(stream, 2_500, now()),
            (_, Some(_)) if instance == Some(OTHER) && !path.starts_with("open") => {
                self.core.refuse(stream, Code::Denied, "withheld", now());
            }
            (_, None) => self.core.refuse(stream, Code::NotFound, "no such entry", now()),
            (_, Some(entry)) => {
                let value = entry.value.bytes();
                let cut = value.len().min(1_000);
                let found = Found {
                    revision: entry.revision,
                    age_ms: 5,
                    freshness: Freshness::Stale,
                    content_type: entry.content_type.as_str().into(),
                    length: u32::try_from(value.len()).unwrap(),
                    value: value[..cut].into(),
                };
                let secrets = secret.then_some(0).into_iter().collect();
                tell_secrets(&mut self.core, stream, &secrets);
                self.core.found(stream, &found, value.slice(cut..), now());
            }
        }
    }

    /// Pages of two, so that a listing of three needs a second one.
    fn list(&mut self, stream: StreamId, prefix: &PathPrefix, after: Option<&EntryPath>) {
        let state = self.host.state.borrow();
        let listed = state
            .other
            .iter()
            .filter(|(path, _)| prefix.covers(path) && after.is_none_or(|after| *path > after));
        let mut entries: Vec<_> = listed
            .map(|(path, entry)| Listed {
                path: path.clone(),
                revision: entry.revision,
                content_type: entry.content_type.clone(),
                length: u32::try_from(entry.value.len()).unwrap(),
            })
            .collect();
        let more = entries.len() > 2;
        entries.truncate(2);
        let marked = entries.iter().enumerate();
        let marked = marked.filter(|(_, listed)| state.secret.contains(listed.path.as_str()));
        let secrets: Secrets = marked.map(|(place, _)| place).collect();
        let revision = Revision::new(1, state.other_revision);
        let listing = Listing {
            revision,
            age_ms: 5,
            freshness: Freshness::Fresh,
            entries,
            more,
        };
        tell_secrets(&mut self.core, stream, &secrets);
        self.core.listing(stream, &listing, now());
    }

    /// Whether the control plane takes the request for one of another time.
    fn is_out_of_time(&self, relay: &Relay) -> Option<Timestamp> {
        let time = self.host.state.borrow().plane_time?;
        let input = relay.headers.iter().find(|(name, _)| name == SIGNATURE_INPUT)?;
        let created = Input::read_all(&input.1).unwrap()[0].1.created().unwrap();
        let off = created.0.abs_diff(time.millis() / 1_000);
        (off > WINDOW_SECONDS.unsigned_abs()).then_some(time)
    }

    fn relay(&mut self, stream: StreamId, relay: Relay) {
        if let Some(time) = self.is_out_of_time(&relay) {
            let headers = vec![(SERVER_TIME.into(), time.to_string())];
            self.reply(stream, 401, headers, &serde_json::Value::Null);
            self.host.state.borrow_mut().relays.push(relay);
            return;
        }
        if take_one(&mut self.host.state.borrow_mut().lose_requests) {
            self.host.state.borrow_mut().orders.push(Order::Cut);
            return;
        }
        let answer = plane::answer(&self.host, &relay);
        self.host.state.borrow_mut().relays.push(relay);
        if take_one(&mut self.host.state.borrow_mut().lose_answers) {
            self.host.state.borrow_mut().orders.push(Order::Cut);
            return;
        }
        if take_one(&mut self.host.state.borrow_mut().unsettle) {
            return self.core.refuse(stream, Code::Unsettled, "lost", now());
        }
        let mut headers = vec![
            ("content-type".into(), "application/json".into()),
            ("x-inner".into(), "secret".into()),
        ];
        headers.extend(answer.operation.map(|id| (OPERATION.into(), id.to_string())));
        self.reply(stream, answer.status, headers, &answer.body);
    }

    fn reply(
        &mut self,
        stream: StreamId,
        status: u16,
        headers: Vec<(String, String)>,
        body: &serde_json::Value,
    ) {
        let body = Bytes::from(body.to_string());
        let relayed = Relayed {
            status,
            headers,
            length: u32::try_from(body.len()).unwrap(),
            body: Value::default(),
        };
        self.core.relayed(stream, &relayed, body, now());
    }
}

pub(super) fn take_one(count: &mut usize) -> bool {
    let any = *count > 0;
    *count = count.saturating_sub(1);
    any
}

/// Says which entries of what is sent next are secret.
fn tell_secrets(core: &mut Host, stream: StreamId, secrets: &Secrets) {
    if !secrets.is_empty() {
        assert_eq!(core.secrets(stream, secrets, now()), Told::Queued);
    }
}

fn content(items: &[Item]) -> Bytes {
    items
        .iter()
        .flat_map(|item| postcard::to_stdvec(item).unwrap())
        .collect::<Vec<u8>>()
        .into()
}
