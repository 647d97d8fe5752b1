//! The cache against a model: a history of states, and a feed that merges, repeats, loses and starts anew.

use std::collections::{BTreeMap, BTreeSet};

use moorline_shared::api::feed::{FeedEntry, FeedItem, InstanceSpec, View as WholeView, ViewEntry, ViewId};
use moorline_shared::api::instances::{Desired, Driver};
use moorline_shared::entry::Value;
use moorline_shared::link::Moment;
use moorline_shared::{EntryPath, InstanceId, PathPrefix, Revision, Timestamp};
use proptest::prelude::*;

use super::{Cache, Effects, FeedBatch, Now, Touched, View, Wanted, What};
use crate::config::CacheConfig;

fn id(n: u8) -> InstanceId {
    InstanceId::from_bytes([n; 16])
}

fn own(n: u8) -> ViewId {
    ViewId::own(id(n))
}

fn foreign(reader: u8, instance: u8) -> ViewId {
    ViewId {
        reader: id(reader),
        instance: id(instance),
    }
}

fn at(ms: u64) -> Now {
    Now {
        moment: Moment(1_000_000 + ms),
        time: Timestamp::from_millis(5_000_000 + i64::try_from(ms).unwrap()).unwrap(),
    }
}

fn rev(n: u64) -> Revision {
    Revision::new(1, n)
}

fn path(text: &str) -> EntryPath {
    text.parse().unwrap()
}

fn entry(n: u64, value: &str) -> FeedEntry {
    FeedEntry {
        revision: rev(n),
        content_type: "text/plain".parse().unwrap(),
        value: Value::from(value),
        secret: false,
        expires_at: None,
    }
}

fn change(view: ViewId, at: &str, entry: Option<FeedEntry>) -> FeedItem {
    FeedItem::Entry {
        view,
        path: path(at),
        entry,
    }
}

fn instance(n: u8) -> FeedItem {
    FeedItem::Instance(InstanceSpec {
        instance: id(n),
        revision: rev(1),
        account: "main".parse().unwrap(),
        name: None,
        driver: Driver::External,
        image: None,
        vcpus: 1,
        memory_mib: 64,
        desired: Desired::Running,
        roles: BTreeSet::new(),
        reboots: 0,
        incarnation: 0,
    })
}

fn batch(from: Option<u64>, to: u64, items: Vec<FeedItem>) -> FeedBatch {
    FeedBatch {
        from: from.map(rev),
        to: rev(to),
        items,
    }
}

/// What is in a view: of each path the value and when it was set.
type Content = BTreeMap<String, (u64, String)>;

fn whole(view: ViewId, n: u64, content: &Content) -> WholeView {
    let entries = content.iter().map(|(at, (set, value))| ViewEntry {
        path: path(at),
        entry: entry(*set, value),
    });
    WholeView {
        view,
        revision: rev(n),
        entries: entries.collect(),
    }
}

fn content(view: &View) -> Content {
    view.range(&PathPrefix::ALL, None, at(0).moment)
        .map(|(path, entry)| {
            let value = entry.value.text().unwrap().to_owned();
            (path.to_string(), (entry.revision.n, value))
        })
        .collect()
}

/// The control plane: every state of one view there ever was, and what the feed has said of it.
struct Master {
    states: Vec<Content>,
    cursor: usize,
    /// Changes were lost, and the view that the host asked for has not come.
    lost: Lost,
    /// The answer to the host's question for the view, under way.
    answer: Option<(usize, Content)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Lost {
    Nothing,
    Something,
}

#[derive(Clone, Debug)]
enum Step {
    /// A transaction on these entries.
    Commit(Vec<(u8, Option<u8>)>),
    /// The feed brings so many transactions as one batch.
    Deliver(usize),
    /// The feed brings a batch that was brought before.
    Repeat(usize, usize),
    /// The feed begins anew.
    Anew,
    /// The feed leaves out what so many transactions did, and says so.
    Lose(usize),
    /// The control plane answers the question for the view.
    Answer,
    /// Its answer arrives.
    Arrive,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let changes = prop::collection::vec((0u8..4, prop::option::weighted(0.7, 0u8..3)), 0..4);
    let step = prop_oneof![
        4 => changes.prop_map(Step::Commit),
        4 => (1usize..4).prop_map(Step::Deliver),
        1 => (0usize..20, 1usize..4).prop_map(|(from, count)| Step::Repeat(from, count)),
        1 => Just(Step::Anew),
        1 => (1usize..4).prop_map(Step::Lose),
        2 => Just(Step::Answer),
        2 => Just(Step::Arrive),
    ];
    prop::collection::vec(step, 1..60)
}

impl Master {
    fn head(&self) -> usize {
        self.states.len() - 1
    }

    fn commit(&mut self, changes: &[(u8, Option<u8>)]) {
        let n = self.states.len() as u64;
        let mut state = self.states[self.head()].clone();
        for (which, value) in changes {
            let at = format!("p/{which}");
            match value {
                Some(value) => drop(state.insert(at, (n, value.to_string()))),
                None => drop(state.remove(&at)),
            }
        }
        self.states.push(state);
    }

    /// Everything that is different between two states, each thing once, as it is in the later.
    fn between(&self, from: usize, to: usize) -> Vec<FeedItem> {
        let (old, new) = (&self.states[from], &self.states[to]);
        // What was set and removed again in between is named too, as the feed does.
        let touched = self.states[from..=to].iter().flat_map(|state| state.keys());
        let touched: BTreeSet<_> = touched.collect();
        let different = touched
            .into_iter()
            .filter(|at| old.get(*at) != new.get(*at) || !new.contains_key(*at));
        different
            .map(|at| change(own(1), at, new.get(at).map(|(n, value)| entry(*n, value))))
            .collect()
    }

    fn step(&mut self, step: &Step, cache: &mut Cache) {
        let next = |count: &usize| (self.cursor + count).min(self.head());
        match step {
            Step::Commit(changes) => self.commit(changes),
            Step::Deliver(count) => {
                let to = next(count);
                let items = self.between(self.cursor, to);
                let from = Some(self.cursor as u64);
                cache.apply(batch(from, to as u64, items), at(0));
                self.cursor = to;
            }
            Step::Repeat(from, count) => {
                let from = *from % (self.cursor + 1);
                let to = (from + count).min(self.cursor);
                let items = self.between(from, to);
                cache.apply(batch(Some(from as u64), to as u64, items), at(0));
            }
            Step::Anew => {
                let head = self.head();
                let view = FeedItem::View(whole(own(1), head as u64, &self.states[head]));
                cache.apply(batch(None, head as u64, vec![instance(1), view]), at(0));
                (self.cursor, self.lost, self.answer) = (head, Lost::Nothing, None);
            }
            Step::Lose(count) => {
                let to = next(count);
                cache.apply(batch(Some(self.cursor as u64), to as u64, vec![]), at(0));
                cache.lose(&own(1), rev(to as u64), at(0).moment);
                // An answer from before the loss may still be under way.
                (self.cursor, self.lost) = (to, Lost::Something);
            }
            Step::Answer if self.lost == Lost::Something => {
                self.answer = Some((self.head(), self.states[self.head()].clone()));
            }
            Step::Arrive => {
                if let Some((n, content)) = self.answer.take() {
                    let effects = cache.replace(whole(own(1), n as u64, &content), at(0));
                    if effects.wanting.is_empty() {
                        self.lost = Lost::Nothing;
                    }
                }
            }
            Step::Answer => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn readers_see_states_that_there_were_in_their_order_and_at_last_the_present_one(steps in steps()) {
        let mut cache = Cache::new(CacheConfig::default());
        let mut master = Master { states: vec![Content::new()], cursor: 0, lost: Lost::Nothing, answer: None };
        master.step(&Step::Anew, &mut cache);
        let mut last = Revision::ZERO;
        for step in steps.iter().chain([&Step::Answer, &Step::Arrive, &Step::Deliver(usize::MAX / 2)]) {
            master.step(step, &mut cache);
            let view = cache.own(&id(1)).unwrap();
            let shown = content(view);
            prop_assert!(view.revision() >= last, "the revision went back");
            last = view.revision();
            let n = usize::try_from(last.n).unwrap();
            prop_assert_eq!(&shown, &master.states[n], "no such state at its revision");
            // An answer may show a later state than the feed has come to, never an earlier one.
            let present = master.lost == Lost::Something || master.states[master.cursor..].contains(&shown);
            prop_assert!(present, "what the feed brought is not shown");
            let bytes: usize = shown.iter().map(|(at, (_, value))| at.len() + value.len() + "text/plain".len()).sum();
            prop_assert_eq!(view.bytes(), bytes);
            prop_assert_eq!(view.digest(), view.digest_of(|_| true), "the digest is of another state");
        }
        let head = master.head();
        prop_assert_eq!(content(cache.own(&id(1)).unwrap()), master.states[head].clone());
    }
}

fn cache_with(quotas: CacheConfig) -> Cache {
    let mut cache = Cache::new(quotas);
    let view = FeedItem::View(whole(own(1), 1, &Content::new()));
    cache.apply(batch(None, 1, vec![instance(1), view]), at(0));
    cache
}

fn touched(effects: &Effects) -> Vec<(ViewId, Option<String>)> {
    let what = |touched: &Touched| match &touched.what {
        What::Everything => None,
        What::Revision => Some("its revision".to_owned()),
        What::Entry(path) => Some(path.to_string()),
    };
    effects
        .touched
        .iter()
        .map(|touched| (touched.view, what(touched)))
        .collect()
}

#[test]
fn a_new_instance_begins_with_what_its_first_batch_says() {
    let mut cache = cache_with(CacheConfig::default());
    let items = vec![instance(2), change(own(2), "a", Some(entry(2, "a")))];
    let effects = cache.apply(batch(Some(1), 2, items), at(0));
    assert_eq!(touched(&effects), [(own(2), Some("a".into()))]);
    cache.apply(batch(Some(2), 3, vec![instance(3)]), at(0));
    assert!(cache.own(&id(3)).unwrap().is_served());
    assert_eq!(cache.own(&id(2)).unwrap().len(), 1);
}

#[test]
fn everything_anew_without_a_view_has_it_asked_for() {
    let mut cache = Cache::new(CacheConfig::default());
    let effects = cache.apply(batch(None, 5, vec![instance(1)]), at(0));
    assert_eq!(effects.wanting, [own(1)]);
    assert!(!cache.own(&id(1)).unwrap().is_served());
    // What comes before the view does is not lost.
    let effects = cache.apply(
        batch(Some(5), 7, vec![change(own(1), "b", Some(entry(7, "b")))]),
        at(0),
    );
    assert_eq!(effects, Effects::default());
    let content = Content::from([("a".into(), (3, "a".into()))]);
    let effects = cache.replace(whole(own(1), 6, &content), at(0));
    assert_eq!(touched(&effects), [(own(1), None)]);
    let view = cache.own(&id(1)).unwrap();
    assert_eq!((view.len(), view.revision()), (2, rev(7)));
}

#[test]
fn everything_anew_ends_what_it_does_not_name() {
    let mut cache = cache_with(CacheConfig::default());
    cache.apply(batch(Some(1), 2, vec![instance(2)]), at(0));
    assert_eq!(
        cache.want(&foreign(1, 9), at(0).moment, &|_| false),
        Some(Wanted::New(vec![]))
    );
    cache.replace(whole(foreign(1, 9), 3, &Content::new()), at(0));
    let view = FeedItem::View(whole(own(1), 4, &Content::new()));
    let effects = cache.apply(batch(None, 4, vec![instance(1), view]), at(0));
    assert_eq!(effects.gone, [id(2)]);
    let stands = (own(1), Some("its revision".to_owned()));
    assert_eq!(touched(&effects), [(foreign(1, 9), None), stands]);
    assert!(cache.own(&id(2)).is_none() && cache.view(&foreign(1, 9)).is_none());
}

#[test]
fn an_instance_that_is_gone_takes_all_its_views_along() {
    let mut cache = cache_with(CacheConfig::default());
    cache.want(&foreign(1, 9), at(0).moment, &|_| false);
    cache.replace(whole(foreign(1, 9), 3, &Content::new()), at(0));
    let gone = FeedItem::InstanceGone { instance: id(1) };
    assert_eq!(cache.apply(batch(Some(3), 4, vec![gone]), at(0)).gone, [id(1)]);
    assert!(cache.own(&id(1)).is_none() && cache.view(&foreign(1, 9)).is_none());
    // What comes late for it changes nothing.
    cache.apply(
        batch(Some(4), 5, vec![change(own(1), "a", Some(entry(5, "a")))]),
        at(0),
    );
    assert_eq!(cache.instances().count(), 0);
}

#[test]
fn a_view_over_its_quota_is_asked_for_again_when_it_changes_but_not_all_the_time() {
    let quotas = CacheConfig {
        entries: 1,
        ..CacheConfig::default()
    };
    let mut cache = cache_with(quotas);
    let set = |cache: &mut Cache, at_path: &str, n: u64, ms: u64| {
        let items = vec![change(own(1), at_path, Some(entry(n, "x")))];
        cache.apply(batch(Some(n - 1), n, items), at(ms))
    };
    set(&mut cache, "a", 2, 0);
    assert!(cache.own(&id(1)).unwrap().is_served());
    set(&mut cache, "b", 3, 0);
    let view = cache.own(&id(1)).unwrap();
    assert!(!view.is_served() && view.is_empty() && view.bytes() == 0);
    assert_eq!(set(&mut cache, "c", 4, 10).wanting, []);
    assert_eq!(set(&mut cache, "d", 5, 70_000).wanting, [own(1)]);
    assert_eq!(
        set(&mut cache, "e", 6, 70_001).wanting,
        [],
        "it is being asked for"
    );
    let content = Content::from([("d".into(), (5, "x".into()))]);
    let effects = cache.replace(whole(own(1), 6, &content), at(70_100));
    assert_eq!(touched(&effects), [(own(1), None)]);
    assert!(cache.own(&id(1)).unwrap().is_served());
}

#[test]
fn a_view_that_comes_whole_stands_where_it_came_from() {
    let mut cache = cache_with(CacheConfig::default());
    let effects = cache.replace(whole(own(1), 4, &Content::new()), at(0));
    assert_eq!(touched(&effects), [(own(1), Some("its revision".into()))]);
    let view = cache.own(&id(1)).unwrap();
    assert_eq!((view.revision(), view.known()), (rev(4), rev(4)));
    let effects = cache.replace(whole(own(1), 4, &Content::new()), at(0));
    assert_eq!(effects, Effects::default());
}

#[test]
fn a_transaction_that_passes_its_quota_in_between_only_is_kept() {
    let quotas = CacheConfig {
        entries: 1,
        ..CacheConfig::default()
    };
    let mut cache = cache_with(quotas);
    cache.apply(
        batch(Some(1), 2, vec![change(own(1), "a", Some(entry(2, "a")))]),
        at(0),
    );
    let items = vec![
        change(own(1), "b", Some(entry(3, "b"))),
        change(own(1), "a", None),
    ];
    cache.apply(batch(Some(2), 3, items), at(0));
    assert!(cache.own(&id(1)).unwrap().get("b", at(0).moment).is_some());
}

#[test]
fn row_15_an_entry_ends_by_the_clock_that_nobody_sets() {
    let mut cache = cache_with(CacheConfig::default());
    let mut short = entry(2, "short");
    short.expires_at = Timestamp::from_millis(at(0).time.millis() + 100);
    cache.apply(
        batch(Some(1), 2, vec![change(own(1), "short", Some(short))]),
        at(0),
    );
    let view = cache.own(&id(1)).unwrap();
    assert_eq!(
        view.get("short", at(40).moment).unwrap().valid_for(at(40).moment),
        Some(60)
    );
    assert!(view.get("short", at(100).moment).is_none());
    assert_eq!(view.range(&PathPrefix::ALL, None, at(100).moment).count(), 0);
    assert_eq!(cache.expire(at(99).moment), []);
    assert_eq!(cache.expire(at(100).moment).len(), 1);
    assert_eq!(cache.expire(at(200).moment), []);
    assert_eq!(cache.own(&id(1)).unwrap().bytes(), 0);
}

#[test]
fn the_foreign_view_that_was_not_read_for_longest_makes_room() {
    let quotas = CacheConfig {
        foreign_views: 2,
        foreign_idle_seconds: 1,
        ..CacheConfig::default()
    };
    let mut cache = cache_with(quotas);
    let held = |_: &InstanceId| false;
    cache.want(&foreign(1, 2), at(0).moment, &held);
    cache.want(&foreign(1, 3), at(1).moment, &held);
    cache.read_foreign(&foreign(1, 2), at(2).moment);
    let wanted = cache.want(&foreign(1, 4), at(3).moment, &held);
    assert_eq!(wanted, Some(Wanted::New(vec![foreign(1, 3)])));
    assert_eq!(
        cache.want(&foreign(1, 4), at(3).moment, &held),
        Some(Wanted::Already)
    );
    assert_eq!(cache.want(&foreign(1, 5), at(3).moment, &|_| true), None);
    let dropped = cache.drop_idle(at(2_000).moment, &|view| view.instance == id(4));
    assert_eq!(dropped, [foreign(1, 2)]);
    assert_eq!(cache.usage(&id(1)).0, 1);
}

#[test]
fn a_view_that_nobody_wants_is_not_kept() {
    let mut cache = cache_with(CacheConfig::default());
    let effects = cache.replace(whole(foreign(1, 2), 3, &Content::new()), at(0));
    assert_eq!(effects, Effects::default());
    assert!(cache.view(&foreign(1, 2)).is_none());
}

#[test]
fn what_an_instance_asked_for_before_it_went_does_not_bring_it_back() {
    let mut cache = cache_with(CacheConfig::default());
    cache.apply(
        batch(Some(1), 2, vec![FeedItem::InstanceGone { instance: id(1) }]),
        at(0),
    );
    assert_eq!(cache.want(&foreign(1, 2), at(0).moment, &|_| false), None);
    assert!(!cache.has(&id(1)));
}

#[test]
fn an_entry_that_changes_often_while_its_view_is_asked_for_takes_its_place_once() {
    let mut cache = cache_with(CacheConfig::default());
    cache.lose(&own(1), rev(2), at(0).moment);
    let value = "x".repeat(200_000);
    for n in 3..30 {
        let item = change(own(1), "often", Some(entry(n, &value)));
        cache.apply(batch(Some(n - 1), n, vec![item]), at(0));
    }
    let effects = cache.replace(whole(own(1), 2, &Content::new()), at(0));
    assert_eq!(effects.wanting, [], "what was kept aside was let go");
    assert_eq!(
        cache
            .own(&id(1))
            .unwrap()
            .get("often", at(0).moment)
            .unwrap()
            .revision,
        rev(29)
    );
}

/// An entry that came and went was told to a reader in between; the view that comes after that is the present one.
#[test]
fn a_view_that_shows_that_what_its_reader_was_told_is_gone_is_read() {
    let view = foreign(1, 2);
    let content = Content::from([("a".to_owned(), (1, "1".to_owned()))]);
    let comes_whole = |cache: &mut Cache| drop(cache.replace(whole(view, 11, &content), at(0)));
    let is_changed = |cache: &mut Cache| {
        let gone = vec![change(view, "x", None)];
        drop(cache.apply(batch(Some(8), 11, gone), at(0)));
    };
    let ways: [&dyn Fn(&mut Cache); 2] = [&comes_whole, &is_changed];
    for way in ways {
        let mut cache = cache_with(CacheConfig::default());
        cache.apply(batch(None, 8, vec![instance(1), instance(2)]), at(0));
        cache.want(&view, at(0).moment, &|_| false).unwrap();
        cache.replace(whole(view, 9, &content), at(0));
        assert!(cache.read_foreign(&view, at(0).moment).is_some());
        cache.told(&view, rev(10));
        assert!(cache.read_foreign(&view, at(0).moment).is_none());
        way(&mut cache);
        let read = cache
            .read_foreign(&view, at(0).moment)
            .expect("it shows what was told");
        assert_eq!(self::content(read), content, "nothing of it has changed");
    }
}

#[test]
fn a_view_that_is_older_than_what_was_lost_is_asked_for_again() {
    let mut cache = cache_with(CacheConfig::default());
    cache.apply(
        batch(Some(1), 2, vec![change(own(1), "a", Some(entry(2, "a")))]),
        at(0),
    );
    cache.lose(&own(1), rev(2), at(5).moment);
    let effects = cache.replace(whole(own(1), 1, &Content::new()), at(6));
    assert_eq!(effects.wanting, [own(1)]);
    assert_eq!(cache.own(&id(1)).unwrap().behind_since(), Some(at(5).moment));
}

#[test]
fn all_foreign_views_together_keep_their_bound() {
    let quotas = CacheConfig {
        foreign_bytes: 100,
        ..CacheConfig::default()
    };
    let mut cache = cache_with(quotas);
    let content = |n, size: usize| Content::from([("v".into(), (n, "x".repeat(size)))]);
    for (ms, instance, size) in [(0, 2, 50), (1, 3, 50)] {
        cache.want(&foreign(1, instance), at(ms).moment, &|_| false);
        let effects = cache.replace(whole(foreign(1, instance), 3, &content(2, size)), at(ms));
        assert_eq!(
            effects.dropped,
            if instance == 3 {
                vec![foreign(1, 2)]
            } else {
                vec![]
            }
        );
    }
    let effects = cache.replace(whole(foreign(1, 3), 4, &content(4, 200)), at(2));
    assert_eq!(effects.dropped, []);
    assert!(!cache.view(&foreign(1, 3)).unwrap().is_served());
    assert_eq!(cache.usage(&id(1)), (1, 0));
}

#[test]
fn a_subtree_is_listed_in_order_from_where_the_last_page_ended() {
    let mut cache = cache_with(CacheConfig::default());
    let paths = ["net", "net/a", "net/b", "net-c", "network", "a"];
    let items = paths.map(|at| change(own(1), at, Some(entry(2, "")))).to_vec();
    cache.apply(batch(Some(1), 2, items), at(0));
    let view = cache.own(&id(1)).unwrap();
    let list = |prefix: &str, after: Option<&str>| {
        let (prefix, after) = (prefix.parse().unwrap(), after.map(path));
        let range = view.range(&prefix, after.as_ref(), at(0).moment);
        range.map(|(path, _)| path.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(list("net", None), ["net", "net/a", "net/b"]);
    assert_eq!(list("net", Some("net/a")), ["net/b"]);
    assert_eq!(list("net", Some("a")), ["net", "net/a", "net/b"]);
    assert_eq!(list("", Some("net/b")), ["network"]);
    assert_eq!(list("", None).len(), 6);
}
