//! Whatever changes, is damaged, can't be written or is killed in whatever order: no daemon takes a view for a later state
//! than it shows, and each comes to the present one from where the disk says that it stands.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use moorline_shared::api::feed::{FeedItem, ViewId};
use proptest::prelude::*;

use super::{Daemon, Kept, file_of};
use crate::link::tests::{entry, id, path, revision, spec, view};

const INSTANCES: u8 = 3;

#[derive(Clone, Debug)]
enum Step {
    /// The entry of an instance changes.
    Change(u8),
    /// Changes of an instance are lost on the way.
    Lose(u8),
    /// What there is to write is written.
    Write,
    /// A file can't be written from now on, or can be again.
    Refuse(File),
    Allow(File),
    /// A byte of a file changes, or its end is lost.
    Flip(File, prop::sample::Index),
    Cut(File, prop::sample::Index),
    /// The daemon is killed, and another begins.
    Kill,
}

#[derive(Clone, Copy, Debug)]
enum File {
    View(u8),
    Position,
}

impl File {
    fn path(self, state: &Path) -> PathBuf {
        match self {
            Self::View(n) => file_of(n, state),
            Self::Position => state.join("cache/position"),
        }
    }

    /// What it is written as before it takes its place: while that is a folder, it can't be.
    fn beside(self, state: &Path) -> PathBuf {
        self.path(state).with_added_extension("new")
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let instance = 1..=INSTANCES;
    let file = prop_oneof![
        3 => instance.clone().prop_map(File::View),
        1 => Just(File::Position),
    ];
    let place = || any::<prop::sample::Index>();
    let step = prop_oneof![
        6 => instance.clone().prop_map(Step::Change),
        1 => instance.prop_map(Step::Lose),
        5 => Just(Step::Write),
        2 => file.clone().prop_map(Step::Refuse),
        2 => file.clone().prop_map(Step::Allow),
        1 => (file.clone(), place()).prop_map(|(file, at)| Step::Flip(file, at)),
        1 => (file, place()).prop_map(|(file, at)| Step::Cut(file, at)),
        3 => Just(Step::Kill),
    ];
    prop::collection::vec(step, 1..24)
}

/// At each revision, when the entry of each instance had changed last.
struct Master(Vec<BTreeMap<u8, u64>>);

impl Master {
    fn head(&self) -> u64 {
        self.0.len() as u64 - 1
    }

    fn at(&self, n: u64) -> &BTreeMap<u8, u64> {
        &self.0[usize::try_from(n).unwrap()]
    }

    fn change(&mut self, n: u8) -> u64 {
        let mut next = self.at(self.head()).clone();
        self.0.push(BTreeMap::new());
        next.insert(n, self.head());
        *self.0.last_mut().unwrap() = next;
        self.head()
    }

    fn whole(&self, n: u8) -> [FeedItem; 2] {
        let changed = self.at(self.head())[&n].to_string();
        let view = view(n, n, self.head(), &[("a", &*changed)]);
        [FeedItem::Instance(spec(n)), view]
    }
}

fn change(n: u8, at: u64) -> FeedItem {
    FeedItem::Entry {
        view: ViewId::own(id(n)),
        path: path("a"),
        entry: Some(entry(at, &at.to_string())),
    }
}

/// What the daemon shows of an instance: when its entry changed last.
async fn shown(daemon: &Daemon, n: u8) -> u64 {
    let taken = daemon.shards.handle().take_image(id(n)).await.unwrap().unwrap();
    taken.image.entries[0].1.value.text().unwrap().parse().unwrap()
}

/// A daemon begins with what is on disk, and the control plane brings it in step.
async fn begin(state: &Path, master: &Master) -> Daemon {
    let daemon = Daemon::begin(state);
    let cursor = daemon.restored.cursor.map(|cursor| cursor.n);
    let mut in_step = Vec::new();
    for n in 1..=INSTANCES {
        let Some((_, kept)) = daemon
            .restored
            .instances
            .iter()
            .find(|(instance, _)| *instance == id(n))
        else {
            continue;
        };
        let shows = shown(&daemon, n).await;
        assert!(
            master.0.iter().any(|state| state[&n] == shows),
            "{n} was never at {shows}"
        );
        if let (Kept::InStep, Some(cursor)) = (kept, cursor) {
            let then = master.at(cursor)[&n];
            assert!(
                shows >= then,
                "{n} shows {shows}, and at the position {cursor} it was at {then}"
            );
            in_step.push(n);
        }
    }
    let head = master.head();
    let Some(cursor) = cursor else {
        let everything = (1..=INSTANCES).flat_map(|n| master.whole(n));
        daemon.take(None, head, everything.collect()).await;
        return daemon;
    };
    let news = in_step
        .iter()
        .filter(|n| master.at(head)[*n] > master.at(cursor)[*n]);
    let news = news.map(|n| change(*n, master.at(head)[n]));
    let missing = (1..=INSTANCES).filter(|n| !in_step.contains(n));
    let items = news.chain(missing.flat_map(|n| master.whole(n))).collect();
    daemon.take(Some(cursor), head, items).await;
    daemon
}

async fn run(state: &Path, steps: Vec<Step>) {
    let mut master = Master(vec![(1..=INSTANCES).map(|n| (n, 0)).collect()]);
    for n in 1..=INSTANCES {
        master.change(n);
    }
    let mut daemon = begin(state, &master).await;
    for step in steps {
        match step {
            Step::Change(n) => {
                let to = master.change(n);
                daemon.take(Some(to - 1), to, vec![change(n, to)]).await;
            }
            Step::Lose(n) => {
                let to = master.change(n);
                daemon.shards.handle().lose(ViewId::own(id(n)), revision(to));
                daemon.writer.handle().changed([id(n)]);
                daemon.take(Some(to - 1), to, Vec::new()).await;
            }
            Step::Write => daemon.writer.round().await,
            Step::Refuse(file) => {
                // It may be refused already.
                let _ = std::fs::create_dir(file.beside(state));
            }
            Step::Allow(file) => {
                let _ = std::fs::remove_dir(file.beside(state));
            }
            Step::Flip(file, at) => damage(&file.path(state), |bytes| {
                let at = at.index(bytes.len());
                bytes[at] ^= 0x10;
            }),
            Step::Cut(file, at) => damage(&file.path(state), |bytes| bytes.truncate(at.index(bytes.len()))),
            Step::Kill => {
                daemon.end();
                daemon = begin(state, &master).await;
                for n in 1..=INSTANCES {
                    assert_eq!(shown(&daemon, n).await, master.at(master.head())[&n]);
                }
            }
        }
    }
    daemon.end();
}

/// Changes a file's bytes, if there are any.
fn damage(file: &Path, how: impl FnOnce(&mut Vec<u8>)) {
    if let Ok(mut bytes) = std::fs::read(file)
        && !bytes.is_empty()
    {
        how(&mut bytes);
        std::fs::write(file, bytes).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_daemon_takes_a_view_for_a_later_state_than_it_shows(steps in steps()) {
        let state = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(state.path(), steps));
    }
}
