//! A host for tests: the real session core behind a real unix socket, with entries to change and ways to misbehave.

mod connection;
mod making;
mod plane;
mod rig;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use moorline_shared::entry::Value;
use moorline_shared::id::IdempotencyKey;
use moorline_shared::link::body::{self, Freshness, Hello, Item, Mirrored, Pull, Relay};
use moorline_shared::secret::SecretKey;
use moorline_shared::{EntryPath, InstanceId, OperationId, Revision, Timestamp};
use tokio::net::UnixListener;
use tokio::sync::Notify;

use connection::Connection;

pub(crate) use making::{LASTING, announced, making};
pub(crate) use rig::{Rig, run, settings, until};

/// This guest.
pub(crate) const OWN: InstanceId = InstanceId::from_bytes([1; 16]);
/// Another guest, whose data this one may read where the path begins with `open`.
pub(crate) const OTHER: InstanceId = InstanceId::from_bytes([2; 16]);

/// What the host does next, besides its work.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    Cut,
    GoAway(u32),
    Raw(Vec<u8>),
    /// A batch that builds on a revision that never was.
    Gap,
    /// A batch that removes an entry without a commit.
    RunOut(&'static str),
    /// What the mirror is, if it is right.
    Compare,
    /// The instance's token or a role's credentials, from now on.
    Give(Box<Give>),
}

/// What a host gives a guest besides data.
#[derive(Clone, Debug)]
pub(crate) enum Give {
    Session(body::Session),
    Credential(body::Credential),
}

#[derive(Debug)]
pub(crate) struct HostState {
    pub(crate) revision: u64,
    pub(crate) own: BTreeMap<EntryPath, Mirrored>,
    history: BTreeMap<u64, Vec<Item>>,
    pub(crate) other: BTreeMap<EntryPath, Mirrored>,
    pub(crate) other_revision: u64,
    pub(crate) instance: InstanceId,
    pub(crate) incarnation: u64,
    pub(crate) authority: String,
    /// Which entries of either guest are secret.
    pub(crate) secret: BTreeSet<String>,
    /// Whether the host is in step, and how old its data are, in milliseconds.
    pub(crate) standing: (Freshness, u32),
    pub(crate) hellos: Vec<Hello>,
    pub(crate) snapshots: usize,
    /// How guests have to ask, if they do, and how often they have.
    pub(crate) pull: Option<Pull>,
    pub(crate) polls: usize,
    /// How often a guest said that its mirror is something else.
    pub(crate) differed: usize,
    pub(crate) asked: Vec<String>,
    pub(crate) cancelled: usize,
    /// How many watches have their snapshot.
    pub(crate) watches: usize,
    pub(crate) relays: Vec<Relay>,
    pub(crate) answers: Answers,
    /// What time it is at the control plane, where it isn't the guest's time.
    pub(crate) plane_time: Option<Timestamp>,
    /// How many answers to relays are lost with the link, though what was asked is done.
    pub(crate) lose_answers: usize,
    /// How many relays are lost with the link before anything is done.
    pub(crate) lose_requests: usize,
    /// How many answers to relays the host loses on its way to the control plane, though what was asked is done.
    pub(crate) unsettle: usize,
    /// How many changes a proxy before the control plane answers by a failure of its own, though they are made.
    pub(crate) fail: usize,
    /// How many changes the control plane turns away at its door.
    pub(crate) turn_away: usize,
    /// How the control plane answers whoever identifies with a token, if not well.
    pub(crate) identify: BTreeMap<&'static str, u16>,
    /// What was answered under each idempotency key.
    pub(crate) recorded: BTreeMap<IdempotencyKey, Recorded>,
    /// What every guest is given right behind its welcome.
    pub(crate) gives: Vec<Give>,
    /// What HELLO has to pass, if anything.
    pub(crate) lock: Option<Lock>,
    orders: Vec<Order>,
}

/// An answer of the control plane, for its record.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) operation: OperationId,
    pub(crate) status: u16,
    pub(crate) body: serde_json::Value,
}

/// How the host tells the guest's root from others.
#[derive(Clone, Debug)]
pub(crate) enum Lock {
    /// The next HELLO without a proof is given this key.
    Unclaimed(SecretKey),
    /// Every HELLO must prove this key.
    Claimed(SecretKey),
}

/// How the host treats questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Answers {
    #[default]
    Given,
    Never,
    Busy,
}

/// The handle by which a test steers the host.
#[derive(Clone, Debug)]
pub(crate) struct TestHost {
    pub(crate) path: PathBuf,
    state: Rc<RefCell<HostState>>,
    wake: Rc<Notify>,
    happened: Rc<Notify>,
}

pub(crate) fn entry(n: u64, value: &[u8]) -> Mirrored {
    Mirrored {
        revision: Revision::new(1, n),
        content_type: "text/plain; charset=utf-8".into(),
        valid_for_ms: None,
        value: Value::from(Bytes::copy_from_slice(value)),
    }
}

impl TestHost {
    pub(crate) fn new(path: PathBuf) -> Self {
        let state = HostState {
            revision: 1,
            own: BTreeMap::new(),
            history: BTreeMap::new(),
            other: BTreeMap::new(),
            other_revision: 1,
            instance: OWN,
            incarnation: 7,
            authority: "test".to_owned(),
            secret: BTreeSet::new(),
            standing: (Freshness::Fresh, 0),
            hellos: Vec::new(),
            snapshots: 0,
            pull: None,
            polls: 0,
            differed: 0,
            asked: Vec::new(),
            cancelled: 0,
            watches: 0,
            relays: Vec::new(),
            answers: Answers::Given,
            plane_time: None,
            lose_answers: 0,
            lose_requests: 0,
            unsettle: 0,
            fail: 0,
            turn_away: 0,
            identify: BTreeMap::new(),
            recorded: BTreeMap::new(),
            gives: Vec::new(),
            lock: None,
            orders: Vec::new(),
        };
        Self {
            path,
            state: Rc::new(RefCell::new(state)),
            wake: Rc::default(),
            happened: Rc::default(),
        }
    }

    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut HostState) -> T) -> T {
        let result = act(&mut self.state.borrow_mut());
        self.wake.notify_one();
        result
    }

    /// Commits a change of this guest's entries, and returns its revision.
    pub(crate) fn change(&self, items: &[(&str, Option<&[u8]>)]) -> Revision {
        self.with(|state| {
            state.revision += 1;
            let n = state.revision;
            let mut batch = Vec::new();
            for (path, value) in items {
                let path: EntryPath = path.parse().unwrap();
                let entry = value.map(|value| entry(n, value));
                match &entry {
                    Some(entry) => state.own.insert(path.clone(), entry.clone()),
                    None => state.own.remove(&path),
                };
                batch.push(Item { path, entry });
            }
            state.history.insert(n, batch);
            Revision::new(1, n)
        })
    }

    /// Commits a change of the other guest's entry.
    pub(crate) fn change_other(&self, path: &str, value: Option<&[u8]>) {
        self.with(|state| {
            state.other_revision += 1;
            let path: EntryPath = path.parse().unwrap();
            match value {
                Some(value) => state.other.insert(path, entry(state.other_revision, value)),
                None => state.other.remove(&path),
            };
        });
    }

    pub(crate) fn order(&self, order: Order) {
        self.with(|state| state.orders.push(order));
    }

    /// Waits until the host has seen what the test waits for.
    pub(crate) async fn until<T>(&self, mut look: impl FnMut(&HostState) -> Option<T>) -> T {
        loop {
            let mut happened = std::pin::pin!(self.happened.notified());
            happened.as_mut().enable();
            if let Some(found) = look(&self.state.borrow()) {
                return found;
            }
            happened.await;
        }
    }

    pub(crate) async fn serve(self, listener: UnixListener) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // However a connection ends, the guest comes back.
            let _ = Connection::new(self.clone(), stream).run().await;
            self.happened.notify_waiters();
        }
    }
}
