//! The mirror against a map that keeps every state it ever had, and watches that must follow it.

use std::collections::BTreeMap;

use bytes::Bytes;
use moorline_shared::entry::Value;
use moorline_shared::link::Moment;
use moorline_shared::link::body::{Item, Mirrored};
use moorline_shared::{EntryPath, PathPrefix, Revision};
use proptest::prelude::*;

use super::{
    Batch, Before, Compacted, Cursor, Dated, Freshness, Known, Lookup, Mirror, Refusal, STALE_AFTER_MS,
    Standing,
};

const PATHS: [&str; 7] = ["a", "a/b", "a/b/c", "a.b", "ab", "b", "b/x"];
const NOW: Moment = Moment(1_000);

/// What there is: when each entry last changed, and its value.
type State = BTreeMap<String, (u64, Vec<u8>)>;

fn item(path: &str, revision: u64, value: Option<&[u8]>) -> Item {
    let entry = value.map(|value| Mirrored {
        revision: Revision::new(1, revision),
        content_type: "text/plain".into(),
        valid_for_ms: None,
        value: Value::from(Bytes::copy_from_slice(value)),
    });
    Item {
        path: path.parse().unwrap(),
        entry,
    }
}

fn batch(from: Option<u64>, to: u64, items: Vec<Item>) -> Batch {
    Batch {
        from: from.map(|n| Revision::new(1, n)),
        to: Revision::new(1, to),
        items,
        secrets: Default::default(),
    }
}

fn state_of(mirror: &Mirror) -> State {
    let entry = |entry: &std::sync::Arc<super::Entry>| {
        (
            entry.path().to_string(),
            (entry.revision().n, entry.value().bytes().to_vec()),
        )
    };
    mirror.list(&PathPrefix::ALL, NOW).map(entry).collect()
}

#[derive(Clone, Debug)]
enum Step {
    /// A batch that fits: for each path nothing, a removal, or a value of so many bytes.
    Change(Vec<(usize, Option<usize>)>),
    /// A state that replaces everything.
    Snapshot(Vec<(usize, usize)>),
    /// Entries go without a commit.
    RunOut(Vec<usize>),
    /// A batch that builds on something else.
    Gap(i8),
    /// A snapshot of the past.
    Back,
    /// The same, from a host that says that it is behind.
    Behind,
    /// A watch reads all there is.
    Drain(usize),
    /// A watch ends and resumes by its revision.
    Resume(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![9 => 0usize..40, 1 => 30_000usize..60_000];
    let path = 0..PATHS.len();
    let step = prop_oneof![
        8 => prop::collection::vec((path.clone(), prop::option::of(size.clone())), 0..5).prop_map(Step::Change),
        2 => prop::collection::vec((path, size), 0..5).prop_map(Step::Snapshot),
        2 => prop::collection::vec(0..PATHS.len(), 0..3).prop_map(Step::RunOut),
        1 => any::<i8>().prop_filter("another revision", |by| *by != 0).prop_map(Step::Gap),
        1 => Just(Step::Back),
        1 => Just(Step::Behind),
        4 => (0usize..3).prop_map(Step::Drain),
        2 => (0usize..3).prop_map(Step::Resume),
    ];
    prop::collection::vec(step, 1..60)
}

/// A watch with its own copy, which must always be a state that once was.
struct Watcher {
    cursor: Cursor,
    at: Revision,
    copy: State,
    prefix: PathPrefix,
}

impl Watcher {
    /// What there is to see of a state.
    fn part_of(&self, state: &State) -> State {
        let mut part = state.clone();
        part.retain(|path, _| self.prefix.covers(path));
        part
    }
}

#[derive(Default)]
struct World {
    mirror: Mirror,
    n: u64,
    /// The states under each revision: one by the commit, and one for each time that entries ran out.
    states: BTreeMap<Revision, Vec<State>>,
    watchers: Vec<Watcher>,
    compacted: usize,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            n: 1,
            ..Self::default()
        };
        world.mirror.apply(batch(None, 1, vec![]), NOW).unwrap();
        world.states.insert(Revision::new(1, 1), vec![State::new()]);
        for prefix in ["", "a", "b"] {
            let watcher = world.list(prefix.parse().unwrap());
            world.watchers.push(watcher);
        }
        world
    }

    fn list(&self, prefix: PathPrefix) -> Watcher {
        let mut copy = state_of(&self.mirror);
        copy.retain(|path, _| prefix.covers(path));
        Watcher {
            cursor: self.mirror.cursor(),
            at: self.mirror.revision().unwrap(),
            copy,
            prefix,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Change(items) => {
                let items = items
                    .into_iter()
                    .map(|(path, size)| (PATHS[path], size))
                    .collect();
                self.change(items);
            }
            Step::Snapshot(items) => {
                let items: Vec<_> = items
                    .into_iter()
                    .map(|(path, size)| (PATHS[path], size))
                    .collect();
                self.snapshot(&items);
            }
            Step::RunOut(paths) => self.run_out(&paths),
            Step::Gap(by) => {
                let from = self.n.wrapping_add_signed(by.into());
                let before = state_of(&self.mirror);
                let refused = self
                    .mirror
                    .apply(batch(Some(from), u64::MAX, vec![item("a", 9, Some(b"x"))]), NOW);
                assert!(matches!(refused, Err(Refusal::Gap { .. })));
                assert_eq!(state_of(&self.mirror), before);
            }
            Step::Back => {
                let refused = self.mirror.apply(batch(None, self.n - 1, vec![]), NOW);
                assert!(matches!(refused, Err(Refusal::Backwards { .. })));
            }
            Step::Behind => {
                let known = Known { at: NOW, age_ms: 0 };
                self.mirror.stand(Standing::Behind(None, known), NOW);
                let passed_over = batch(None, self.n - 1, vec![item("a", 9, Some(b"x"))]);
                self.mirror.apply(passed_over, NOW).unwrap();
                assert!(self.mirror.is_ahead_of(Revision::new(1, self.n - 1)));
                self.mirror.stand(Standing::InStep(Revision::ZERO), NOW);
            }
            Step::Drain(i) => self.drain(i),
            Step::Resume(i) => match self.mirror.cursor_after(self.watchers[i].at) {
                Ok(cursor) => self.watchers[i].cursor = cursor,
                Err(Compacted { .. }) => self.relist(i),
            },
        }
        assert_eq!(self.mirror.revision(), Some(Revision::new(1, self.n)));
        assert_eq!(state_of(&self.mirror), *self.present());
        assert_eq!(
            self.mirror.bytes(),
            self.present()
                .values()
                .map(|(_, value)| value.len())
                .sum::<usize>()
        );
    }

    fn present(&self) -> &State {
        self.states[&Revision::new(1, self.n)].last().unwrap()
    }

    fn run_out(&mut self, paths: &[usize]) {
        let mut state = self.present().clone();
        let items = paths.iter().map(|path| item(PATHS[*path], 0, None)).collect();
        state.retain(|path, _| !paths.iter().any(|gone| PATHS[*gone] == path));
        self.mirror
            .apply(batch(Some(self.n), self.n, items), NOW)
            .unwrap();
        self.states
            .get_mut(&Revision::new(1, self.n))
            .unwrap()
            .push(state);
    }

    fn value(&self, size: usize) -> Vec<u8> {
        vec![u8::try_from(self.n % 251).unwrap(); size]
    }

    fn change(&mut self, items: Vec<(&str, Option<usize>)>) {
        let mut state = self.present().clone();
        let from = self.n;
        self.n += 1;
        let mut sent = Vec::new();
        for (path, size) in items {
            let value = size.map(|size| self.value(size));
            sent.push(item(path, self.n, value.as_deref()));
            match value {
                Some(value) => state.insert(path.into(), (self.n, value)),
                None => state.remove(path),
            };
        }
        self.mirror.apply(batch(Some(from), self.n, sent), NOW).unwrap();
        self.states.insert(Revision::new(1, self.n), vec![state]);
    }

    /// What a snapshot leaves as it was keeps its revision, as it does at the host.
    fn snapshot(&mut self, items: &[(&str, usize)]) {
        let before = self.present().clone();
        self.n += 1;
        let mut state = State::new();
        for (path, size) in items {
            let kept = before
                .get(*path)
                .filter(|(_, value)| value.len() == *size)
                .cloned();
            let fresh = (self.n, self.value(*size));
            state.insert((*path).to_owned(), kept.unwrap_or(fresh));
        }
        let sent = state
            .iter()
            .map(|(path, (n, value))| item(path, *n, Some(value)))
            .collect();
        self.mirror.apply(batch(None, self.n, sent), NOW).unwrap();
        self.states.insert(Revision::new(1, self.n), vec![state]);
    }

    fn drain(&mut self, i: usize) {
        loop {
            let watcher = &mut self.watchers[i];
            match self.mirror.next_change(watcher.cursor) {
                Ok(None) => {
                    assert_eq!(
                        watcher.copy,
                        watcher.part_of(self.states[&watcher.at].last().unwrap())
                    );
                    return assert_eq!(watcher.at, Revision::new(1, self.n));
                }
                Err(Compacted { .. }) => return self.relist(i),
                Ok(Some((change, cursor))) => {
                    for item in change.below(&watcher.prefix) {
                        let (path, entry) = (&item.path, item.entry.as_ref());
                        match entry {
                            Some(entry) => watcher.copy.insert(
                                path.to_string(),
                                (entry.revision().n, entry.value().bytes().to_vec()),
                            ),
                            None => watcher.copy.remove(path.as_str()),
                        };
                    }
                    (watcher.cursor, watcher.at) = (cursor, change.revision());
                    let known = self.states[&change.revision()]
                        .iter()
                        .map(|state| watcher.part_of(state));
                    assert!(
                        known.into_iter().any(|known| known == watcher.copy),
                        "a watch saw half of a change or missed one"
                    );
                }
            }
        }
    }

    fn relist(&mut self, i: usize) {
        self.compacted += 1;
        self.watchers[i] = self.list(self.watchers[i].prefix.clone());
    }
}

proptest! {
    #[test]
    fn the_mirror_is_a_map_and_watches_follow_it(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        for i in 0..world.watchers.len() {
            world.drain(i);
        }
    }

    #[test]
    fn listings_show_whole_segments(prefix in prop::sample::select(&PATHS[..])) {
        let mut mirror = Mirror::default();
        let items = PATHS.iter().map(|path| item(path, 1, Some(b"x"))).collect();
        mirror.apply(batch(None, 1, items), NOW).unwrap();
        let prefix: PathPrefix = prefix.parse().unwrap();
        let listed: Vec<_> = mirror.list(&prefix, NOW).map(|entry| entry.path().to_string()).collect();
        let mut expected: Vec<_> = PATHS.iter().filter(|path| prefix.covers(path)).map(ToString::to_string).collect();
        expected.sort();
        prop_assert_eq!(listed, expected);
    }
}

#[test]
fn a_watch_that_never_reads_loses_its_place_and_is_told() {
    let mut world = World::new();
    for _ in 0..300 {
        world.change(vec![("a", Some(10))]);
    }
    world.drain(0);
    assert_eq!(world.compacted, 1);
    world.change(vec![("a", Some(250_000)), ("b", Some(100_000))]);
    world.drain(0);
    assert_eq!(world.compacted, 1, "the newest batch is kept whatever its size");
}

#[test]
fn an_entry_past_its_validity_is_not_given_out() {
    let mut mirror = Mirror::default();
    let mut item = item("a", 1, Some(b"x"));
    item.entry.as_mut().unwrap().valid_for_ms = Some(500);
    mirror.apply(batch(None, 1, vec![item]), Moment(1_000)).unwrap();
    assert!(matches!(mirror.get("a", Moment(1_499)), Lookup::Found(_)));
    assert!(matches!(mirror.get("a", Moment(1_500)), Lookup::Expired(_)));
    assert_eq!(mirror.list(&PathPrefix::ALL, Moment(1_500)).count(), 0);
}

#[test]
fn answers_age_from_the_hosts_last_word_on() {
    let mut mirror = Mirror::default();
    assert_eq!(mirror.age(NOW), None);
    mirror.apply(batch(None, 1, vec![]), Moment(1_000)).unwrap();
    let age = mirror.age(Moment(1_000 + STALE_AFTER_MS)).unwrap();
    assert_eq!((age.ms, age.freshness), (STALE_AFTER_MS, Freshness::Fresh));
    assert_eq!(
        mirror.age(Moment(1_001 + STALE_AFTER_MS)).unwrap().freshness,
        Freshness::Stale
    );
    mirror.heard(Moment(90_000));
    assert_eq!(mirror.age(Moment(90_000)).unwrap().freshness, Freshness::Fresh);
}

/// What the mirror says at `now`.
fn said(mirror: &Mirror, now: u64) -> (u64, Freshness) {
    let age = mirror.age(Moment(now)).unwrap();
    (age.ms, age.freshness)
}

#[test]
fn the_words_of_a_host_that_is_behind_make_nothing_younger() {
    let mut mirror = Mirror::default();
    mirror.apply(batch(None, 5, vec![]), Moment(1_000)).unwrap();
    let known = Known {
        at: Moment(2_000),
        age_ms: 1_600,
    };
    mirror.stand(Standing::Behind(Some(Revision::new(1, 5)), known), Moment(2_000));
    mirror.heard(Moment(2_500));
    assert_eq!(said(&mirror, 3_000), (2_600, Freshness::Stale));
    mirror.apply(batch(None, 6, vec![]), Moment(3_000)).unwrap();
    assert_eq!(said(&mirror, 3_000), (2_600, Freshness::Stale));
    mirror.stand(Standing::InStep(Revision::new(1, 6)), Moment(3_100));
    assert_eq!(said(&mirror, 3_100), (0, Freshness::Fresh));
}

#[test]
fn the_age_of_a_copy_that_the_host_cant_give_is_not_the_mirrors() {
    let mut mirror = Mirror::default();
    mirror.apply(batch(None, 5, vec![]), Moment(1_000)).unwrap();
    for stands in [None, Some(Revision::new(1, 7))] {
        let known = Known {
            at: Moment(3_600_000),
            age_ms: 0,
        };
        mirror.stand(Standing::Behind(stands, known), Moment(3_600_000));
        assert_eq!(said(&mirror, 3_600_000), (3_599_000, Freshness::Stale));
    }
}

#[test]
fn a_mirror_with_a_date_is_fresh_as_long_as_the_host_says() {
    let dated = |revision, at, fresh_until| {
        let known = Known {
            at: Moment(at),
            age_ms: 600,
        };
        let fresh_until = Moment(fresh_until);
        Standing::AsOf(Revision::new(1, revision), Dated { known, fresh_until })
    };
    let mut mirror = Mirror::default();
    mirror.stand(Standing::Unsaid, Moment(500));
    mirror.stand(dated(5, 1_000, 100_000), Moment(1_000));
    mirror.apply(batch(None, 5, vec![]), Moment(2_000)).unwrap();
    assert_eq!(said(&mirror, 2_000), (1_600, Freshness::Fresh));
    mirror.heard(Moment(90_000));
    assert_eq!(said(&mirror, 99_999), (99_599, Freshness::Fresh));
    assert_eq!(said(&mirror, 100_000), (99_600, Freshness::Stale));
    // The host is ahead: what there is, is as old as it was until the batch has come.
    mirror.stand(dated(7, 101_000, 200_000), Moment(101_000));
    assert_eq!(said(&mirror, 102_000), (101_600, Freshness::Stale));
    mirror.apply(batch(None, 7, vec![]), Moment(103_000)).unwrap();
    assert_eq!(said(&mirror, 103_000), (2_600, Freshness::Fresh));
    // A host that is pushed to says the same of itself as ever.
    mirror.stand(Standing::InStep(Revision::new(1, 7)), Moment(104_000));
    assert_eq!(said(&mirror, 104_000), (0, Freshness::Fresh));
    assert_eq!(said(&mirror, 134_001).1, Freshness::Stale);
}

#[test]
fn a_mirror_on_its_way_to_where_the_host_stands_is_as_old_as_it_was() {
    let mut mirror = Mirror::default();
    mirror.apply(batch(None, 5, vec![]), Moment(1_000)).unwrap();
    // A new session, whose host is ahead.
    for standing in [Standing::Unsaid, Standing::InStep(Revision::new(1, 7))] {
        mirror.stand(standing, Moment(4_000));
        mirror.heard(Moment(4_500));
        assert_eq!(said(&mirror, 5_000), (4_000, Freshness::Fresh));
    }
    mirror.apply(batch(None, 7, vec![]), Moment(5_000)).unwrap();
    assert_eq!(said(&mirror, 5_000), (0, Freshness::Fresh));
}

#[test]
fn removals_are_remembered_while_the_log_lasts() {
    let mut world = World::new();
    world.change(vec![("a", Some(1))]);
    world.change(vec![("a", None)]);
    assert_eq!(
        world.mirror.removed_at("a"),
        Some((Revision::new(1, 3), Before::Open))
    );
    world.change(vec![("a", Some(1))]);
    assert_eq!(world.mirror.removed_at("a"), None);
    assert_eq!(world.mirror.removed_at("never"), None);
}

#[test]
fn another_life_begins_with_nothing_and_watches_are_told() {
    let mut world = World::new();
    world.change(vec![("a", Some(1))]);
    let cursor = world.mirror.cursor();
    world.mirror.forget();
    assert!(world.mirror.is_empty() && world.mirror.revision().is_none() && world.mirror.bytes() == 0);
    assert!(world.mirror.next_change(cursor).is_err());
    assert!(world.mirror.cursor_after(Revision::new(1, 2)).is_err());
    // A lower revision is no way back: it is another mirror now.
    world.mirror.apply(batch(None, 1, vec![]), NOW).unwrap();
}

#[test]
fn more_than_an_instance_may_have_is_refused_whole() {
    let mut mirror = Mirror::default();
    mirror
        .apply(batch(None, 1, vec![item("a", 1, Some(b"x"))]), NOW)
        .unwrap();
    let many = (0..1_024)
        .map(|i| item(&format!("n/{i}"), 2, Some(b"x")))
        .collect();
    let refused = mirror.apply(batch(Some(1), 2, many), NOW);
    assert_eq!(
        refused,
        Err(Refusal::TooMuch {
            entries: 1_025,
            bytes: 1_025
        })
    );
    let large = (0..5)
        .map(|i| item(&format!("n/{i}"), 2, Some(&vec![0; 250_000])))
        .collect();
    assert!(matches!(
        mirror.apply(batch(None, 2, large), NOW),
        Err(Refusal::TooMuch { .. })
    ));
    assert_eq!((mirror.len(), mirror.revision()), (1, Some(Revision::new(1, 1))));
    assert!(matches!(mirror.get("a", NOW), Lookup::Found(_)));
}

#[test]
fn what_happens_without_a_commit_is_seen_by_whoever_may_not_have_seen_it() {
    let mut mirror = Mirror::default();
    let all = || vec![item("a", 1, Some(b"x")), item("b", 1, Some(b"y"))];
    mirror.apply(batch(None, 1, all()), NOW).unwrap();
    let cursor = mirror.cursor();
    mirror.apply(batch(None, 1, all()), NOW).unwrap();
    assert!(
        mirror.next_change(cursor).unwrap().is_none(),
        "the same state again changes nothing"
    );
    mirror
        .apply(batch(Some(1), 1, vec![item("a", 1, None)]), NOW)
        .unwrap();
    let resumed = mirror.cursor_after(Revision::new(1, 1)).unwrap();
    for cursor in [cursor, resumed] {
        let (change, cursor) = mirror.next_change(cursor).unwrap().unwrap();
        assert!(
            change.below(&"a".parse().unwrap()).next().is_some() && change.revision() == Revision::new(1, 1)
        );
        assert!(mirror.next_change(cursor).unwrap().is_none());
    }
    assert_eq!(mirror.removed_at("a"), None, "no commit removed it");
    mirror
        .apply(batch(Some(1), 2, vec![item("b", 1, None)]), NOW)
        .unwrap();
    let resumed = mirror.cursor_after(Revision::new(1, 2)).unwrap();
    assert!(mirror.next_change(resumed).unwrap().is_none());
}

#[test]
fn paths_of_entries_are_shared_not_copied() {
    let path: EntryPath = "a/b".parse().unwrap();
    let entry = super::Entry::new(&path, item("a/b", 1, Some(b"x")).entry.unwrap(), NOW);
    assert_eq!(entry.path().as_str().as_ptr(), path.as_str().as_ptr());
}
