//! A guest: the session core of `shared` on a real socket.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use moorline_shared::InstanceId;
use moorline_shared::link::body::{
    AsOf, Found, Get, Hello, HelloAck, Item, List, Listing, Refused, Relay, Standing, Watch,
};
use moorline_shared::link::proof::proof;
use moorline_shared::link::session::{Guest, GuestEvent};
use moorline_shared::link::{KindSet, StreamId};
use moorline_shared::secret::SecretKey;
use moorline_shared::{PathPrefix, Revision};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Agent {
    pub(crate) core: Guest,
    pub(crate) socket: UnixStream,
    pub(crate) hello: Hello,
    /// What it proves itself by.
    pub(crate) key: Option<SecretKey>,
    /// What the host said of itself.
    pub(crate) standings: Vec<Standing>,
    as_ofs: VecDeque<AsOf>,
    input: Vec<u8>,
    events: VecDeque<GuestEvent>,
}

/// What the mirror was told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pushed {
    pub(crate) from: Option<Revision>,
    pub(crate) to: Revision,
    pub(crate) items: BTreeMap<String, Option<String>>,
}

pub(crate) fn hello() -> Hello {
    Hello {
        kinds: KindSet::ours(),
        build: "test".into(),
        boot_id: [1; 16],
        vmgenid: None,
        incarnation: None,
        applied: None,
        journal: 0,
        proof: None,
    }
}

/// The link key of a guest whose VMM was given one.
pub(crate) fn link_key() -> SecretKey {
    SecretKey::from([0x6b; 32])
}

impl Agent {
    /// A guest that has [`link_key`].
    pub(crate) fn dial(path: &Path) -> Self {
        Self::dial_with(path, Some(link_key()))
    }

    pub(crate) fn dial_with(path: &Path, key: Option<SecretKey>) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            core: Guest::new(crate::link::now()),
            socket,
            hello: hello(),
            key,
            standings: Vec::new(),
            as_ofs: VecDeque::new(),
            input: Vec::new(),
            events: VecDeque::new(),
        }
    }

    /// Writes what is to be written.
    pub(crate) fn flush(&mut self) {
        loop {
            let output = self.core.outbox().output().to_vec();
            if output.is_empty() {
                return;
            }
            match self.socket.write_all(&output) {
                // That the host has hung up shows when it is read from.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return,
                written => written.unwrap(),
            }
            self.core.outbox().wrote(output.len(), crate::link::now());
        }
    }

    /// The next event; `None` when the host has hung up.
    pub(crate) fn try_next(&mut self) -> Option<GuestEvent> {
        loop {
            self.flush();
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            self.read()?;
        }
    }

    /// Reads once; `None` when the host has hung up.
    fn read(&mut self) -> Option<()> {
        let mut piece = vec![0; 65_536];
        match self.socket.read(&mut piece) {
            Ok(0) => None,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("nothing came from the host: {error}"),
            Ok(count) => {
                self.take(&piece[..count]);
                Some(())
            }
        }
    }

    pub(crate) fn take(&mut self, piece: &[u8]) {
        self.input.extend_from_slice(piece);
        let mut at = 0;
        loop {
            let now = crate::link::now();
            let received = self
                .core
                .receive(&self.input[at..], now)
                .expect("the host is honest");
            if received.taken == 0 {
                break;
            }
            at += received.taken;
            match received.event {
                Some(GuestEvent::Challenge(nonce)) => {
                    let made = self.key.as_ref().map(|key| proof(key, &nonce));
                    self.hello.proof = self.hello.proof.or(made);
                    self.core.hello(&self.hello, now);
                }
                Some(GuestEvent::Standing(standing)) => self.standings.push(standing),
                Some(GuestEvent::AsOf(as_of)) => self.as_ofs.push_back(as_of),
                event => self.events.extend(event),
            }
        }
        self.input.drain(..at);
    }

    /// Waits until the host has said so much of itself, and returns the last of it.
    pub(crate) fn standing(&mut self, count: usize) -> Standing {
        while self.standings.len() < count {
            self.read().expect("the host hung up");
        }
        self.standings[count - 1]
    }

    /// Of when the host has said next that the mirror is.
    pub(crate) fn as_of(&mut self) -> AsOf {
        loop {
            self.flush();
            if let Some(as_of) = self.as_ofs.pop_front() {
                return as_of;
            }
            self.read().expect("the host hung up");
        }
    }

    pub(crate) fn next(&mut self) -> GuestEvent {
        self.try_next().expect("the host hung up")
    }

    pub(crate) fn ready(&mut self) -> HelloAck {
        match self.next() {
            GuestEvent::Ready(ack) => ack,
            other => panic!("{other:?} came instead of HELLO_ACK"),
        }
    }

    /// The next batch on the stream, without saying that it is applied. Streams take turns in no stated order, so what
    /// comes on others is kept for later.
    pub(crate) fn batch(&mut self, expected: StreamId) -> Pushed {
        let mut others = Vec::new();
        let (from, to, items) = loop {
            match self.next() {
                GuestEvent::Batch {
                    stream,
                    from,
                    to,
                    items,
                    ..
                } if stream == expected => break (from, to, items),
                other @ GuestEvent::Batch { .. } => others.push(other),
                other => panic!("{other:?} came instead of a batch"),
            }
        };
        self.events.extend(others);
        let text = |item: &Item| {
            let entry = item.entry.as_ref();
            entry.map(|entry| entry.value.text().unwrap().to_owned())
        };
        let items = items
            .iter()
            .map(|item| (item.path.to_string(), text(item)))
            .collect();
        Pushed { from, to, items }
    }

    /// The next batch of the mirror, applied.
    pub(crate) fn mirror(&mut self) -> Pushed {
        let pushed = self.batch(StreamId::SESSION);
        self.applied(StreamId::SESSION, pushed.to);
        pushed
    }

    pub(crate) fn applied(&mut self, stream: StreamId, revision: Revision) {
        self.core.applied(stream, revision, crate::link::now());
        self.flush();
    }

    pub(crate) fn ask_get(&mut self, instance: Option<InstanceId>, path: &str) -> StreamId {
        let get = Get {
            instance,
            path: path.into(),
            max_age_ms: None,
        };
        let stream = self.core.get(&get, crate::link::now()).unwrap();
        self.flush();
        stream
    }

    pub(crate) fn get(&mut self, path: &str) -> Result<Found<'static>, Refused> {
        let stream = self.ask_get(None, path);
        self.answer(stream)
    }

    pub(crate) fn answer(&mut self, stream: StreamId) -> Result<Found<'static>, Refused> {
        match self.next() {
            GuestEvent::Found(id, found, _) if id == stream => Ok(found),
            GuestEvent::Refused(id, refused) if id == stream => Err(refused),
            other => panic!("{other:?} came instead of an answer"),
        }
    }

    pub(crate) fn ask_list(&mut self, list: &List) -> StreamId {
        let stream = self.core.list(list, crate::link::now()).unwrap();
        self.flush();
        stream
    }

    pub(crate) fn list(&mut self, list: &List) -> Listing {
        self.ask_list(list);
        match self.next() {
            GuestEvent::Listing(_, listing, _) => listing,
            other => panic!("{other:?} came instead of a listing"),
        }
    }

    pub(crate) fn watch(&mut self, instance: Option<InstanceId>, prefix: &str) -> StreamId {
        let prefix = prefix.parse::<PathPrefix>().unwrap();
        let watch = Watch { instance, prefix };
        let stream = self.core.watch(&watch, crate::link::now()).unwrap();
        self.flush();
        stream
    }

    pub(crate) fn relay(&mut self, relay: Relay) -> StreamId {
        let stream = self.core.relay(relay, crate::link::now()).unwrap();
        self.flush();
        stream
    }
}
