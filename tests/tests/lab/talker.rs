//! A guest made of the session core on a real socket: it says what it is told to say, and keeps what it is pushed.

use anyhow::{Context, Result, bail, ensure};
use moorline_lab_load::{disk, signer};
use moorline_shared::api::data::PutEntry;
use moorline_shared::link::body::{
    Code, Found, Get, Hello, HelloAck, Item, Refused, Relay, Relayed, Session, Watch,
};
use moorline_shared::link::proof::proof;
use moorline_shared::link::session::{Guest, GuestEvent};
use moorline_shared::link::{KindSet, Moment, StreamId};
use moorline_shared::secret::SecretKey;
use moorline_shared::{InstanceId, PathPrefix, Revision};
use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);
/// How soon a guest must be answered whatever other guests do. The daemon needs well below a millisecond; the rest is
/// for a machine that does other things too.
const PROMPTLY: Duration = Duration::from_secs(1);
/// Between two questions of a guest that goes on asking.
const BREATH: Duration = Duration::from_millis(2);

/// One connection of a guest.
pub(crate) struct Talker {
    pub(crate) core: Guest,
    socket: UnixStream,
    path: PathBuf,
    begun: Instant,
    input: Vec<u8>,
    events: VecDeque<GuestEvent>,
    /// The deployment, as the host named it.
    pub(crate) authority: String,
    /// What it signs with, as soon as its host has given it.
    session: Option<Session>,
    /// What was pushed to its mirror.
    pub(crate) mirror: Mirror,
}

/// What a guest was told of its own entries.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    pub(crate) at: Option<Revision>,
    pub(crate) entries: BTreeMap<String, Vec<u8>>,
    /// How often all of it came anew.
    pub(crate) snapshots: u32,
}

impl Mirror {
    /// The text of an entry, if it is there.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        let value = self.entries.get(path)?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    fn apply(&mut self, from: Option<Revision>, to: Revision, items: Vec<Item>) -> Result<()> {
        ensure!(
            self.at.is_none_or(|at| to >= at),
            "the mirror would go back to {to}"
        );
        if from.is_none() {
            self.entries.clear();
            self.snapshots += 1;
        } else {
            ensure!(
                from == self.at,
                "changes from {from:?} came to a mirror at {:?}",
                self.at
            );
        }
        for Item { path, entry } in items {
            match entry {
                Some(entry) => self
                    .entries
                    .insert(path.to_string(), entry.value.bytes().to_vec()),
                None => self.entries.remove(path.as_str()),
            };
        }
        self.at = Some(to);
        Ok(())
    }
}

/// What a guest says of itself.
pub(crate) fn hello() -> Hello {
    Hello {
        kinds: KindSet::ours(),
        build: "lab".into(),
        boot_id: [1; 16],
        vmgenid: None,
        // Of a life in which it spoke before: one that knows nothing is given another session each time.
        incarnation: Some(1),
        applied: None,
        journal: 0,
        proof: None,
    }
}

impl Talker {
    /// Connects and says HELLO. Fails when the host says goodbye instead of welcome.
    pub(crate) async fn dial(socket: &Path) -> Result<(Self, HelloAck)> {
        let dial = Self::dial_as(socket, hello());
        timeout(PATIENCE, dial).await.context("no HELLO_ACK came")?
    }

    /// The same, with a HELLO of the test's own.
    ///
    /// It proves itself by the key that an earlier connection was given. If that is of another life, it says HELLO once
    /// more without, as the agent does.
    pub(crate) async fn dial_as(socket: &Path, hello: Hello) -> Result<(Self, HelloAck)> {
        let key = disk::link_key(socket)?;
        let had = key.is_some();
        match Self::dial_with(socket, &hello, key).await? {
            Some(welcomed) => Ok(welcomed),
            None if had => {
                disk::forget_link_key(socket)?;
                let welcomed = Self::dial_with(socket, &hello, None).await?;
                welcomed.context("the host doesn't believe this guest")
            }
            None => bail!("the host doesn't believe this guest"),
        }
    }

    /// The same with this key, or none; nothing if the host doesn't believe it.
    pub(crate) async fn dial_with(
        socket: &Path,
        hello: &Hello,
        key: Option<SecretKey>,
    ) -> Result<Option<(Self, HelloAck)>> {
        let (path, proves) = (socket, key.is_some() || hello.proof.is_some());
        let stream = UnixStream::connect(socket).await.context("connect as a guest")?;
        let mut talker = Self {
            core: Guest::new(Moment(0)),
            socket: stream,
            path: path.to_owned(),
            begun: Instant::now(),
            input: Vec::new(),
            events: VecDeque::new(),
            authority: String::new(),
            session: None,
            mirror: Mirror::default(),
        };
        match talker.next().await? {
            Some(GuestEvent::Challenge(nonce)) => {
                let made = key.map(|key| proof(&key, &nonce));
                let proof = hello.proof.or(made);
                let hello = hello.clone();
                talker.core.hello(&Hello { proof, ..hello }, talker.now());
            }
            other => bail!("{other:?} came instead of a CHALLENGE"),
        }
        match talker.next().await? {
            Some(GuestEvent::Ready(ack)) => {
                talker.authority.clone_from(&ack.authority);
                if !proves {
                    talker.until_keyed().await?;
                }
                Ok(Some((talker, ack)))
            }
            Some(GuestEvent::Ended(StreamId::SESSION, Code::Denied)) => Ok(None),
            other => bail!("{other:?} came instead of HELLO_ACK"),
        }
    }

    /// Takes what the host says until it has given the link key, which whoever had none is given.
    async fn until_keyed(&mut self) -> Result<()> {
        while disk::link_key(&self.path)?.is_none() {
            ensure!(self.exchange().await?, "the host hung up and gave no link key");
        }
        Ok(())
    }

    /// Connects and waits for the first snapshot.
    pub(crate) async fn begin(socket: &Path) -> Result<Self> {
        let (mut talker, _) = Self::dial(socket).await?;
        talker
            .until("its first snapshot", |mirror| mirror.at.is_some())
            .await?;
        talker.flush().await?;
        Ok(talker)
    }

    /// The socket, to write on it what no guest should. Nothing that was read is left.
    pub(crate) fn into_socket(self) -> Result<UnixStream> {
        ensure!(self.input.is_empty(), "a piece of a frame was read");
        Ok(self.socket)
    }

    fn now(&self) -> Moment {
        Moment(u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The next event that is not the mirror's; `None` when the host has hung up. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<GuestEvent>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if !self.exchange().await? {
                return Ok(None);
            }
        }
    }

    /// Takes what the host says until the mirror is as wanted.
    pub(crate) async fn until(&mut self, what: &str, wanted: impl Fn(&Mirror) -> bool) -> Result<()> {
        let pushed = async {
            while !wanted(&self.mirror) {
                ensure!(self.exchange().await?, "the host hung up before there was {what}");
            }
            Ok(())
        };
        timeout(PATIENCE, pushed)
            .await
            .with_context(|| format!("waited in vain for {what}"))?
    }

    /// Writes what there is to write, and reads once. `false` when the host has hung up.
    async fn exchange(&mut self) -> Result<bool> {
        self.flush().await?;
        let now = self.now();
        let due = Duration::from_millis(self.core.next_tick().since(now).max(1));
        match timeout(due, self.socket.read_buf(&mut self.input)).await {
            Err(_) => self.core.tick(self.now())?,
            Ok(Ok(0)) => return Ok(false),
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
            Ok(read) => {
                read.context("read from the host")?;
                self.take()?;
            }
        }
        Ok(true)
    }

    /// Writes what there is to write.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        loop {
            let now = self.now();
            let output = self.core.outbox().output();
            if output.is_empty() {
                return Ok(());
            }
            // Cancel-safe: what was written is told before anything else is awaited.
            match self.socket.write(output).await {
                Ok(count) => self.core.outbox().wrote(count, now),
                // What it said before it hung up can still be read.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => return Err(error).context("write to the host"),
            }
        }
    }

    fn take(&mut self) -> Result<()> {
        let mut at = 0;
        loop {
            let now = self.now();
            let received = self.core.receive(&self.input[at..], now)?;
            if received.taken == 0 {
                break;
            }
            at += received.taken;
            match received.event {
                Some(GuestEvent::Batch {
                    stream,
                    from,
                    to,
                    items,
                    ..
                }) if stream == StreamId::SESSION => {
                    self.mirror.apply(from, to, items)?;
                    self.core.applied(stream, to, now);
                }
                Some(GuestEvent::Session(session)) => self.session = Some(session),
                Some(GuestEvent::Standing(_) | GuestEvent::Credential(_)) => {}
                Some(GuestEvent::LinkKey(given)) => disk::keep_link_key(&self.path, &given.key)?,
                event => self.events.extend(event),
            }
        }
        self.input.drain(..at);
        Ok(())
    }

    /// The next event of a stream; those of others stay for later.
    pub(crate) async fn event_of(&mut self, wanted: StreamId) -> Result<GuestEvent> {
        let mut others = VecDeque::new();
        let found = async {
            loop {
                let event = self
                    .next()
                    .await?
                    .context("the host hung up instead of an answer")?;
                if stream_of(&event) == Some(wanted) {
                    return Ok(event);
                }
                others.push_back(event);
            }
        };
        let found = timeout(PATIENCE, found).await;
        others.append(&mut self.events);
        self.events = others;
        found.with_context(|| format!("nothing came on stream {wanted}"))?
    }

    /// Asks for an entry of its own.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Result<Found<'static>, Refused>> {
        self.get_of(None, path).await
    }

    /// Asks for an entry.
    pub(crate) async fn get_of(
        &mut self,
        instance: Option<InstanceId>,
        path: &str,
    ) -> Result<Result<Found<'static>, Refused>> {
        let stream = self.ask_get(instance, path)?;
        match self.event_of(stream).await? {
            GuestEvent::Found(_, found, _) => Ok(Ok(found)),
            GuestEvent::Refused(_, refused) => Ok(Err(refused)),
            other => bail!("{other:?} came instead of an answer"),
        }
    }

    /// Asks for an entry without waiting for the answer.
    pub(crate) fn ask_get(&mut self, instance: Option<InstanceId>, path: &str) -> Result<StreamId> {
        let get = Get {
            instance,
            path: path.into(),
            max_age_ms: None,
        };
        let now = self.now();
        Ok(self.core.get(&get, now)?)
    }

    /// Begins a watch.
    pub(crate) fn watch(&mut self, instance: Option<InstanceId>, prefix: &str) -> Result<StreamId> {
        let prefix: PathPrefix = prefix.parse()?;
        let now = self.now();
        Ok(self.core.watch(&Watch { instance, prefix }, now)?)
    }

    /// Lets a stream go, and waits until the host has too.
    pub(crate) async fn cancel(&mut self, stream: StreamId) -> Result<()> {
        let now = self.now();
        self.core.cancel(stream, now);
        self.flush().await
    }

    /// Has the host pass a new value on.
    pub(crate) async fn put(&mut self, id: InstanceId, path: &str, value: &str) -> Result<StreamId> {
        let body = serde_json::to_vec(&PutEntry::value(value.into()))?;
        self.change("PUT", id, path, &body).await
    }

    /// Has the host pass a change on, signed with what the host gave it for that.
    pub(crate) async fn change(
        &mut self,
        method: &str,
        id: InstanceId,
        path: &str,
        body: &[u8],
    ) -> Result<StreamId> {
        let target = format!("/v1/instances/{id}/data/{path}");
        let session = self.session().await?;
        let mut headers = signer::signed(&session, &self.authority, method, &target, body)?;
        headers.push(("content-type".into(), "application/json".into()));
        let relay = Relay {
            method: method.into(),
            target,
            headers,
            length: 0,
            body: bytes::Bytes::copy_from_slice(body).into(),
        };
        self.pass_on(relay)
    }

    /// What it signs with; waits until its host has given it.
    pub(crate) async fn session(&mut self) -> Result<Session> {
        let given = async {
            loop {
                if let Some(session) = &self.session {
                    return Ok(session.clone());
                }
                ensure!(self.exchange().await?, "the host hung up and gave no token");
            }
        };
        timeout(PATIENCE, given).await.context("the host gave no token")?
    }

    /// Has the host pass a request on.
    pub(crate) fn pass_on(&mut self, relay: Relay) -> Result<StreamId> {
        let now = self.now();
        Ok(self.core.relay(relay, now)?)
    }

    /// The control plane's answer to a change that was passed on.
    pub(crate) async fn relayed(&mut self, stream: StreamId) -> Result<Relayed> {
        match self.event_of(stream).await? {
            GuestEvent::Relayed(_, relayed) => Ok(relayed),
            other => bail!("{other:?} came instead of the control plane's answer"),
        }
    }

    /// Asks for the same entry again and again until cancelled; answers with how often. Fails when an answer isn't
    /// prompt or isn't `value`.
    pub(crate) async fn keep_asking(
        &mut self,
        path: &str,
        value: &str,
        until: &CancellationToken,
    ) -> Result<u32> {
        let mut answered = 0;
        while !until.is_cancelled() {
            let found = timeout(PROMPTLY, self.get(path)).await;
            let found =
                found.with_context(|| format!("answer {answered} didn't come within {PROMPTLY:?}"))??;
            let found = found.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
            ensure!(*found.value == *value.as_bytes(), "another value came");
            answered += 1;
            sleep(BREATH).await;
        }
        Ok(answered)
    }

    /// Whether the host has hung up, or does within the time that tests have; what it still says is let go.
    pub(crate) async fn hung_up(&mut self) -> Result<()> {
        let rest = async {
            while self.next().await?.is_some() {}
            Ok(())
        };
        timeout(PATIENCE, rest)
            .await
            .context("the host doesn't hang up")?
    }
}

fn stream_of(event: &GuestEvent) -> Option<StreamId> {
    match event {
        GuestEvent::Batch { stream, .. }
        | GuestEvent::Found(stream, ..)
        | GuestEvent::Listing(stream, ..)
        | GuestEvent::Relayed(stream, _)
        | GuestEvent::Refused(stream, _)
        | GuestEvent::Busy(stream, _)
        | GuestEvent::Ended(stream, _) => Some(*stream),
        GuestEvent::Challenge(_)
        | GuestEvent::Ready(_)
        | GuestEvent::Standing(_)
        | GuestEvent::Session(_)
        | GuestEvent::SessionOver(_)
        | GuestEvent::Credential(_)
        | GuestEvent::LinkKey(_)
        | GuestEvent::Digest(_)
        | GuestEvent::Pull(_)
        | GuestEvent::AsOf(_)
        | GuestEvent::GoAway(_) => None,
    }
}
