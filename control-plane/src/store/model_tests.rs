//! Random histories against a model that keeps every revision whole.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use super::sqlite::{Options, Retention};
use super::{CommitError, Guard, Key, Range, ReadError, Store, Transaction, Versioned, Write};

type State = BTreeMap<Key, Versioned>;

#[derive(Debug, Clone)]
enum Step {
    /// Guards pick a key, and a revision by how far it is behind the head.
    Commit {
        guards: Vec<(u8, u8, u64)>,
        writes: Vec<(u8, Option<u16>)>,
    },
    /// Compacts to this part of what can be read, in 1/8.
    Compact(u64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let guards = vec((0..4_u8, 0..6_u8, 0..4_u64), 0..3);
    let writes = vec((0..6_u8, proptest::option::weighted(0.7, 0..600_u16)), 0..4);
    prop_oneof![
        20 => (guards, writes).prop_map(|(guards, writes)| Step::Commit { guards, writes }),
        2 => (0..=8_u64).prop_map(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

/// Every state there was; the index is the revision.
struct Model {
    states: Vec<State>,
    floor: u64,
}

impl Model {
    fn head(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    fn state(&self, at: u64) -> &State {
        &self.states[usize::try_from(at).unwrap()]
    }

    /// The revision, or the first guard that doesn't hold.
    fn commit(&mut self, transaction: &Transaction) -> Result<u64, usize> {
        let mut state = self.states.last().unwrap().clone();
        if let Some(broken) = transaction.guards.iter().position(|guard| !holds(guard, &state)) {
            return Err(broken);
        }
        let n = self.head() + 1;
        for write in &transaction.writes {
            match write {
                Write::Put(key, value) => {
                    let (created, version) = state
                        .get(key)
                        .map_or((n, 1), |old| (old.created, old.version + 1));
                    state.insert(
                        key.clone(),
                        Versioned {
                            value: value.clone(),
                            created,
                            modified: n,
                            version,
                        },
                    );
                }
                Write::Delete(key) => drop(state.remove(key)),
            }
        }
        self.states.push(state);
        Ok(n)
    }
}

fn holds(guard: &Guard, state: &State) -> bool {
    let found = state.get(guard.key());
    match guard {
        Guard::Absent(_) => found.is_none(),
        Guard::Exists(_) => found.is_some(),
        Guard::At(_, n) => found.is_some_and(|found| found.modified == *n),
        Guard::Version(_, version) => found.is_some_and(|found| found.version == *version),
    }
}

fn key(i: u8) -> Key {
    Key::try_from(format!("key/{i}")).unwrap()
}

/// A transaction of the step; a key that is written again is left out.
fn transaction(head: u64, guards: &[(u8, u8, u64)], writes: &[(u8, Option<u16>)]) -> Transaction {
    let guards = guards.iter().map(|(kind, name, back)| match kind {
        0 => Guard::Absent(key(*name)),
        1 => Guard::Exists(key(*name)),
        2 => Guard::At(key(*name), head.saturating_sub(*back)),
        _ => Guard::Version(key(*name), *back),
    });
    let mut unique = Transaction {
        guards: guards.collect(),
        writes: vec![],
    };
    for (name, length) in writes {
        if unique.writes.iter().all(|write| *write.key() != key(*name)) {
            unique.writes.push(match length {
                Some(length) => Write::Put(key(*name), Bytes::from(vec![*name; usize::from(*length)])),
                None => Write::Delete(key(*name)),
            });
        }
    }
    unique
}

struct Run {
    home: TempDir,
    options: Options,
    store: Store,
    model: Model,
}

impl Run {
    fn new(options: Options) -> Self {
        let home = tempfile::tempdir().unwrap();
        let store = open(&home, &options);
        Self {
            home,
            options,
            store,
            model: Model {
                states: vec![State::new()],
                floor: 0,
            },
        }
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Commit { guards, writes } => {
                let transaction = transaction(self.model.head(), guards, writes);
                let expected = self.model.commit(&transaction);
                match (self.store.commit(transaction).await, expected) {
                    (Ok(n), Ok(expected)) => assert_eq!(n, expected),
                    (Err(CommitError::Conflict { guard, .. }), Err(expected)) => assert_eq!(guard, expected),
                    (found, expected) => panic!("{found:?} instead of {expected:?}"),
                }
            }
            Step::Compact(part) => {
                self.model.floor += (self.model.head() - self.model.floor) * part / 8;
                self.store.compact(self.model.floor).await.unwrap();
            }
            Step::Reopen => {
                self.store.close().await;
                let epoch = self.store.epoch();
                let closed = std::mem::replace(&mut self.store, scratch());
                drop(closed);
                self.store = open(&self.home, &self.options);
                assert_eq!(self.store.epoch(), epoch);
            }
        }
        self.compare_head().await;
    }

    async fn compare_head(&self) {
        let head = self.model.head();
        assert_eq!(self.store.head().await.unwrap(), head);
        let keys: Vec<Key> = (0..6).map(key).collect();
        let expected: Vec<_> = keys
            .iter()
            .map(|key| self.model.state(head).get(key).cloned())
            .collect();
        assert_eq!(self.store.read(head, &keys).await.unwrap(), expected);
    }

    async fn compare_past(&self) {
        for at in 0..=self.model.head() {
            let keys: Vec<Key> = (0..6).map(key).collect();
            let (read, range) = (
                self.store.read(at, &keys).await,
                self.store.range(at, &Range::prefix("key/")).await,
            );
            if at < self.model.floor {
                assert!(matches!(read, Err(ReadError::Compacted { .. })));
                assert!(matches!(range, Err(ReadError::Compacted { .. })));
                continue;
            }
            let state = self.model.state(at);
            assert_eq!(
                read.unwrap(),
                keys.iter().map(|key| state.get(key).cloned()).collect::<Vec<_>>()
            );
            let expected: Vec<_> = state.clone().into_iter().collect();
            assert_eq!(range.unwrap().entries, expected);
            assert_eq!(self.store.dump(at).await.unwrap(), expected);
        }
    }

    /// What a watch tells, applied to the state where it begins, must give every later state.
    async fn compare_changes(&self) {
        let mut state = self.model.state(self.model.floor).clone();
        let mut watch = self.store.watch(self.model.floor).await.unwrap();
        for n in self.model.floor + 1..=self.model.head() {
            let batch = watch.next().await.unwrap();
            assert_eq!(batch.n, n);
            for event in &*batch.events {
                let before = match &event.value {
                    Some(value) => state.insert(event.key.clone(), value.clone()),
                    None => state.remove(&event.key),
                };
                assert!(
                    before.is_some() || event.value.is_some(),
                    "an event without a change"
                );
            }
            assert_eq!(&state, self.model.state(n));
        }
    }
}

fn open(home: &TempDir, options: &Options) -> Store {
    Store::open_sqlite(home.path().join("store.db"), options).unwrap()
}

/// A store to hold the place while the real one is closed.
fn scratch() -> Store {
    let home = tempfile::tempdir().unwrap();
    open(&home, &Options::default())
}

fn follow(steps: &[Step], options: Options) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut run = Run::new(options);
        for step in steps {
            run.step(step).await;
        }
        run.compare_past().await;
        run.compare_changes().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn histories_are_as_the_model_says(steps in vec(step(), 1..60)) {
        follow(&steps, Options { retention: Retention::All, ..Options::default() });
    }

    #[test]
    fn so_they_are_without_memory(steps in vec(step(), 1..60)) {
        let starved =
            Options { current_bytes: 0, recent_bytes: 0, readers: 1, retention: Retention::All, ..Options::default() };
        follow(&steps, starved);
    }
}
