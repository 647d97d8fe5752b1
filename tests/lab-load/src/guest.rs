//! A guest's connection, opened as the agent opens it: HELLO, and the first batch applied.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use moorline_shared::EntryPath;
use moorline_shared::link::body::{Get, Hello, Session};
use moorline_shared::link::proof::proof;
use moorline_shared::link::session::{Guest, GuestEvent};
use moorline_shared::link::{KindSet, Moment};

use crate::disk;
use crate::plan::Place;
use crate::reply::STREAM;
use crate::socket::Socket;

/// How much is read at once.
const READ_BYTES: usize = 64 * 1024;

/// A guest that is connected.
#[derive(Debug)]
pub(crate) struct Connected {
    core: Guest,
    socket: Socket,
    path: PathBuf,
    /// What it says of itself.
    hello: Hello,
    /// The deployment, as the host named it.
    authority: String,
    /// What it signs with, once its host has given it.
    session: Option<Session>,
    /// What came and was not a whole frame yet.
    came: Vec<u8>,
    /// Whether the first batch has come: the data are there.
    mirrored: bool,
    epoch: Instant,
}

impl Connected {
    /// Connects and says HELLO. Returns when the guest's data have come; blocks until then.
    pub(crate) fn open(socket: &Path) -> Result<Self> {
        Self::open_as(socket, &hello())
    }

    /// The same with another HELLO, whose proof is made here.
    pub(crate) fn open_as(socket: &Path, hello: &Hello) -> Result<Self> {
        let mut guest = Self::begin(socket, hello.clone())?;
        while !guest.mirrored {
            guest.turn()?;
        }
        Ok(guest)
    }

    /// The same; returns when it has been given what it signs with too.
    pub(crate) fn open_with_session(socket: &Path) -> Result<(Self, Session)> {
        let mut guest = Self::open(socket)?;
        loop {
            if let Some(session) = guest.session.take() {
                return Ok((guest, session));
            }
            guest.turn()?;
        }
    }

    fn begin(socket: &Path, hello: Hello) -> Result<Self> {
        Ok(Self {
            core: Guest::new(Moment::default()),
            socket: Socket::connect(&Place::Unix(socket.to_owned()))?,
            path: socket.to_owned(),
            hello,
            authority: String::new(),
            session: None,
            came: Vec::new(),
            mirrored: false,
            epoch: Instant::now(),
        })
    }

    /// Takes what came and answers it.
    pub(crate) fn turn(&mut self) -> Result<()> {
        let kept = self.came.len();
        self.came.resize(kept + READ_BYTES, 0);
        let count = self.socket.receive(&mut self.came[kept..])?;
        self.came.truncate(kept + count);
        loop {
            let received = self.core.receive(&self.came, self.now())?;
            self.came.drain(..received.taken);
            if received.taken == 0 {
                return self.flush();
            }
            if let Some(event) = received.event {
                self.act(event)?;
            }
        }
    }

    fn act(&mut self, event: GuestEvent) -> Result<()> {
        let now = self.now();
        match event {
            GuestEvent::Challenge(nonce) => {
                let key = disk::link_key(&self.path)?;
                let proof = key.map(|key| proof(&key, &nonce));
                let hello = self.hello.clone();
                self.core.hello(&Hello { proof, ..hello }, now);
            }
            GuestEvent::Ready(ack) => self.authority = ack.authority,
            GuestEvent::Session(session) => self.session = Some(session),
            GuestEvent::LinkKey(given) => disk::keep_link_key(&self.path, &given.key)?,
            // How fresh its data are and what it is known by is nothing to a load.
            GuestEvent::Standing(_)
            | GuestEvent::SessionOver(_)
            | GuestEvent::Digest(_)
            | GuestEvent::Pull(_)
            | GuestEvent::AsOf(_)
            | GuestEvent::Credential(_) => {}
            GuestEvent::Batch { stream, to, .. } => {
                self.core.applied(stream, to, now);
                self.mirrored = true;
            }
            other => bail!("the host says {other:?}"),
        }
        Ok(())
    }

    /// Says PING when it is due, so that the host doesn't take the guest for dead.
    pub(crate) fn tick(&mut self) -> Result<()> {
        self.core.tick(self.now())?;
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        let output = self.core.outbox().output();
        let length = output.len();
        self.socket.send(output)?;
        let now = self.now();
        self.core.outbox().wrote(length, now);
        Ok(())
    }

    fn now(&self) -> Moment {
        Moment(u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The socket, to be waited for. It blocks no more.
    pub(crate) fn socket(&self) -> Result<&Socket> {
        self.socket.stop_blocking()?;
        Ok(&self.socket)
    }

    /// The deployment, as the host named it.
    pub(crate) fn take_authority(&mut self) -> String {
        std::mem::take(&mut self.authority)
    }

    /// Makes a plain connection of it, which blocks no more. What came and was not whole is let go.
    pub(crate) fn into_socket(self) -> Result<Socket> {
        self.socket.stop_blocking()?;
        Ok(self.socket)
    }

    /// Makes a plain connection of it: the bytes that ask for an entry, and the socket.
    pub(crate) fn into_requests(mut self, path: &EntryPath) -> Result<(Socket, Vec<u8>)> {
        let get = Get {
            instance: None,
            path: Cow::Borrowed(path),
            max_age_ms: None,
        };
        let now = self.now();
        let stream = self.core.get(&get, now).context("ask for an entry")?;
        anyhow::ensure!(stream == STREAM, "the first request is on stream {stream}");
        Ok((self.socket, self.core.outbox().output().to_vec()))
    }
}

/// What a guest of the load says of itself.
pub(crate) fn hello() -> Hello {
    Hello {
        kinds: KindSet::ours(),
        build: "lab-load".into(),
        boot_id: [0; 16],
        vmgenid: None,
        incarnation: None,
        applied: None,
        journal: 0,
        proof: None,
    }
}
