//! The agent of a guest: the real session core, mirror and changes under way, driven as `guest-agent/src/link` does.

use std::collections::BTreeMap;

use moorline_agent::mirror::{Batch, Known, Mirror, Standing};
use moorline_shared::agent::Identity;
use moorline_shared::link::body::{self, Code, Get, Hello, HelloAck, Item, List, Watch};
use moorline_shared::link::session::{Guest, GuestEvent};
use moorline_shared::link::{Kind, KindSet, Moment, StreamId};
use moorline_shared::{EntryPath, InstanceId, PathPrefix, Revision};

use crate::mutant::Mutant;
use crate::programs::Programs;
use crate::state::{Held, State};

/// How long after a session ended another is begun, in milliseconds.
const BACKOFF_MS: u64 = 300;

/// An agent, and what it has in memory.
#[derive(Debug, Default)]
pub struct Agent {
    /// Its copy of the instance's data.
    pub mirror: Mirror,
    /// What programs have asked it to change.
    pub programs: Programs,
    /// What it knows of others.
    pub asked: Asked,
    identity: Option<Identity>,
    claimed: Option<u64>,
    anew: bool,
    /// The session, while there is a connection.
    pub link: Option<Session>,
    /// Not to be dialled before.
    pub dial_at: u64,
}

/// One connection of an agent.
#[derive(Debug)]
pub struct Session {
    /// What the connection is known by.
    pub token: u64,
    /// The session.
    pub core: Guest,
    unread: Vec<u8>,
    /// Whether the host has let it in.
    pub open: bool,
}

/// What programs asked of others' data, and what came.
#[derive(Debug, Default)]
pub struct Asked {
    reads: BTreeMap<StreamId, Read>,
    /// Copies of other instances' data that are kept in step by the host.
    pub watches: BTreeMap<StreamId, Watched>,
    /// Answers that the world has not looked at.
    pub answers: Vec<Answer>,
}

#[derive(Clone, Debug)]
enum Read {
    Entry(InstanceId, EntryPath),
    Listing(InstanceId),
}

/// An answer about another instance's data.
#[derive(Clone, Debug)]
pub enum Answer {
    /// An entry.
    Entry(InstanceId, EntryPath, Held),
    /// A listing: which paths there are, and at which revisions.
    Listing(InstanceId, Revision, BTreeMap<EntryPath, Revision>),
    /// There is none, or it may not be known.
    Nothing(InstanceId, EntryPath),
}

/// A copy that a watch keeps.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Of whom.
    pub of: InstanceId,
    /// Where it stands; `None` before the first batch.
    pub at: Option<Revision>,
    /// What it has.
    pub state: State,
}

/// What is left of an agent in a snapshot of its machine: all but the connection.
#[derive(Clone, Debug)]
pub struct Frozen {
    mirror: Mirror,
    programs: Programs,
    identity: Option<Identity>,
    anew: bool,
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The host said goodbye; when to come back, in milliseconds.
    GoAway(u32),
    /// A batch that doesn't fit.
    Batch,
    /// The host is another than the agent took it for.
    Mistaken,
    /// What came is no session, or nothing came for too long.
    Fault,
}

impl Agent {
    /// An agent that starts on a disk with these marks.
    pub fn start(programs: Programs) -> Self {
        Self {
            programs,
            ..Self::default()
        }
    }

    /// What a snapshot of its machine has of it.
    pub fn freeze(&self) -> Frozen {
        Frozen {
            mirror: self.mirror.clone(),
            programs: self.programs.clone(),
            identity: self.identity.clone(),
            anew: self.anew,
        }
    }

    /// The agent of a machine that was put back to a snapshot: it finds its connection dead.
    pub fn thaw(frozen: Frozen, now: Moment) -> Self {
        let mut agent = Self {
            mirror: frozen.mirror,
            programs: frozen.programs,
            identity: frozen.identity,
            anew: frozen.anew,
            ..Self::default()
        };
        agent.programs.link_lost(now);
        agent
    }

    /// A connection was made.
    pub fn dialled(&mut self, token: u64, now: Moment) {
        self.link = Some(Session {
            token,
            core: Guest::new(now),
            unread: Vec::new(),
            open: false,
        });
    }

    /// Whether a session is open.
    pub fn is_connected(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.open)
    }

    /// The connection is gone.
    pub fn hung_up(&mut self, over: Over, now: Moment) {
        if self.link.take().is_none() {
            return;
        }
        self.anew |= over == Over::Batch;
        let asked = match over {
            Over::GoAway(ms) => u64::from(ms),
            _ => 0,
        };
        self.dial_at = now.0 + BACKOFF_MS + asked;
        self.asked.reads.clear();
        self.asked.watches.clear();
        self.programs.link_lost(now);
    }

    /// Bytes came from the host.
    pub fn receive(&mut self, bytes: &[u8], now: Moment, mutant: Mutant) -> Result<(), Over> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        link.unread.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(link) = &mut self.link {
            let received = link
                .core
                .receive(&link.unread[at..], now)
                .map_err(|_| Over::Fault)?;
            if received.taken == 0 {
                link.unread.drain(..at);
                break;
            }
            at += received.taken;
            if let Some(event) = received.event {
                self.act(event, now, mutant)?;
            }
        }
        if self.is_connected() {
            self.mirror.heard(now);
        }
        Ok(())
    }

    /// Time passes.
    pub fn tick(&mut self, now: Moment) -> Result<(), Over> {
        if let Some(link) = &mut self.link
            && link.core.next_tick() <= now
        {
            link.core.tick(now).map_err(|_| Over::Fault)?;
        }
        let own = self.identity.as_ref().map(|identity| identity.instance);
        let open = self.link.as_mut().filter(|link| link.open);
        self.programs.tick(own, open.map(|link| &mut link.core), now);
        Ok(())
    }

    fn act(&mut self, event: GuestEvent, now: Moment, mutant: Mutant) -> Result<(), Over> {
        match event {
            GuestEvent::Challenge(_) => self.hello(now),
            GuestEvent::Ended(StreamId::SESSION, Code::Denied) => self.anew = true,
            GuestEvent::Ready(ack) => self.ready(ack, now, mutant)?,
            GuestEvent::Standing(said) => self.mirror.stand(standing(said, now), now),
            GuestEvent::GoAway(said) => return Err(Over::GoAway(said.reconnect_after_ms)),
            GuestEvent::Batch {
                stream: StreamId::SESSION,
                from,
                to,
                items,
                secrets,
            } => {
                let batch = Batch {
                    from,
                    to,
                    items,
                    secrets,
                };
                self.mirror.apply(batch, now).map_err(|_| Over::Batch)?;
                self.applied(StreamId::SESSION, to, now);
            }
            GuestEvent::Batch {
                stream,
                from,
                to,
                items,
                ..
            } => {
                if let Some(watched) = self.asked.watches.get_mut(&stream) {
                    watched.take(from, to, items);
                    self.applied(stream, to, now);
                }
            }
            answer => self.answered(answer, now),
        }
        Ok(())
    }

    fn applied(&mut self, stream: StreamId, to: Revision, now: Moment) {
        if let Some(link) = &mut self.link {
            link.core.applied(stream, to, now);
        }
    }

    /// As `line/driven.rs` says who speaks.
    fn hello(&mut self, now: Moment) {
        let incarnation = self.identity.as_ref().map(|identity| identity.incarnation);
        let claimed = incarnation.zip(self.mirror.revision()).filter(|_| !self.anew);
        self.claimed = claimed.map(|(incarnation, _)| incarnation);
        let hello = Hello {
            kinds: KindSet::ours(),
            build: moorline_agent::BUILD.to_owned(),
            boot_id: [1; 16],
            vmgenid: None,
            incarnation: self.claimed,
            applied: claimed.map(|(_, applied)| applied),
            journal: 0,
            proof: None,
        };
        if let Some(link) = &mut self.link {
            link.core.hello(&hello, now);
        }
    }

    /// As `driver.rs` and `line/driven.rs` begin a session.
    fn ready(&mut self, ack: HelloAck, now: Moment, mutant: Mutant) -> Result<(), Over> {
        let standing = if ack.kinds.has(Kind::Standing) {
            Standing::Unsaid
        } else {
            Standing::default()
        };
        self.mirror.stand(standing, now);
        let identity = Identity {
            instance: ack.instance,
            incarnation: ack.incarnation,
            authority: ack.authority,
            session: ack.session,
        };
        let before = self.identity.replace(identity.clone());
        let same = before.as_ref().is_none_or(|before| {
            (before.instance, before.incarnation, &before.authority)
                == (identity.instance, identity.incarnation, &identity.authority)
        });
        let mistaken = !same && self.claimed == Some(identity.incarnation);
        self.anew = false;
        if let Some(link) = &mut self.link {
            link.open = true;
        }
        if !same && mutant != Mutant::InheritedMirror {
            self.mirror.forget();
        }
        if mistaken { Err(Over::Mistaken) } else { Ok(()) }
    }

    fn answered(&mut self, event: GuestEvent, now: Moment) {
        let read = |asked: &mut Asked, stream| asked.reads.remove(&stream);
        match event {
            GuestEvent::Found(stream, found, _) => {
                if let Some(Read::Entry(of, path)) = read(&mut self.asked, stream) {
                    let held = Held::new(found.revision, &found.value);
                    self.asked.answers.push(Answer::Entry(of, path, held));
                }
            }
            GuestEvent::Listing(stream, listing, _) => {
                if let Some(Read::Listing(of)) = read(&mut self.asked, stream)
                    && !listing.more
                {
                    let entries = listing.entries.into_iter();
                    let entries = entries.map(|entry| (entry.path, entry.revision)).collect();
                    let answer = Answer::Listing(of, listing.revision, entries);
                    self.asked.answers.push(answer);
                }
            }
            GuestEvent::Refused(stream, refused) => {
                self.asked.watches.remove(&stream);
                let code = Code::from_number(refused.code);
                if let Some(Read::Entry(of, path)) = read(&mut self.asked, stream)
                    && matches!(code, Code::NotFound | Code::Denied)
                {
                    self.asked.answers.push(Answer::Nothing(of, path));
                }
                self.programs.refused(stream, refused, now);
            }
            GuestEvent::Busy(stream, ms) => {
                self.asked.reads.remove(&stream);
                self.programs.busy(stream, ms, now);
            }
            GuestEvent::Ended(stream, code) => {
                self.asked.reads.remove(&stream);
                self.asked.watches.remove(&stream);
                self.programs.broken_off(stream, code, now);
            }
            GuestEvent::Relayed(stream, relayed) => self.programs.relayed(stream, relayed, now),
            _ => {}
        }
    }

    /// A program reads an entry of another instance.
    pub fn get(&mut self, of: InstanceId, path: EntryPath, now: Moment) -> bool {
        let Some(link) = self.link.as_mut().filter(|link| link.open) else {
            return false;
        };
        let get = Get {
            instance: Some(of),
            path: path.as_str().into(),
            max_age_ms: None,
        };
        let sent = link.core.get(&get, now);
        sent.is_ok_and(|stream| self.asked.reads.insert(stream, Read::Entry(of, path)).is_none())
    }

    /// A program lists what another instance has.
    pub fn list(&mut self, of: InstanceId, now: Moment) -> bool {
        let Some(link) = self.link.as_mut().filter(|link| link.open) else {
            return false;
        };
        let list = List {
            instance: Some(of),
            prefix: PathPrefix::ALL,
            after: None,
        };
        let sent = link.core.list(&list, now);
        sent.is_ok_and(|stream| self.asked.reads.insert(stream, Read::Listing(of)).is_none())
    }

    /// A program watches what another instance has; one watch for each.
    pub fn watch(&mut self, of: InstanceId, now: Moment) -> bool {
        let known = self.asked.watches.values().any(|watched| watched.of == of);
        let Some(link) = self.link.as_mut().filter(|link| link.open && !known) else {
            return false;
        };
        let watch = Watch {
            instance: Some(of),
            prefix: PathPrefix::ALL,
        };
        let (at, state) = (None, State::default());
        let sent = link.core.watch(&watch, now);
        sent.is_ok_and(|stream| {
            let watched = Watched { of, at, state };
            self.asked.watches.insert(stream, watched).is_none()
        })
    }

    /// A program no longer watches.
    pub fn unwatch(&mut self, of: InstanceId, now: Moment) -> bool {
        let mut watches = self.asked.watches.iter();
        let Some(stream) = watches.find_map(|(stream, watched)| (watched.of == of).then_some(*stream)) else {
            return false;
        };
        self.asked.watches.remove(&stream);
        if let Some(link) = &mut self.link {
            link.core.cancel(stream, now);
        }
        true
    }

    /// The instance that it takes itself for.
    pub fn instance(&self) -> Option<InstanceId> {
        self.identity.as_ref().map(|identity| identity.instance)
    }
}

impl Watched {
    fn take(&mut self, from: Option<Revision>, to: Revision, items: Vec<Item>) {
        if from.is_none() {
            self.state = State::default();
        }
        for item in items {
            match item.entry {
                Some(entry) => {
                    let held = Held::new(entry.revision, entry.value.bytes());
                    self.state.insert(item.path, held);
                }
                None => drop(self.state.remove(&item.path)),
            }
        }
        self.at = Some(to);
    }
}

/// What the host says of itself, in the mirror's words, as `driver.rs` takes it.
fn standing(said: body::Standing, now: Moment) -> Standing {
    match (said.freshness, said.revision) {
        (body::Freshness::Fresh, Some(revision)) => Standing::InStep(revision),
        (_, stands) => {
            let age_ms = said.age_ms.into();
            Standing::Behind(stands, Known { at: now, age_ms })
        }
    }
}
