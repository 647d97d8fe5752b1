//! A host in step is told so, and one that isn't is told which views differ, however they came to be as they are.

use moorline_shared::api::feed::FeedEntry;
use moorline_shared::api::sync::{HostSync, SyncHost, ViewState, together};
use moorline_shared::digest::{Row, ViewDigest};
use moorline_shared::{Digest, Timestamp};

use super::*;

/// A time before all of these tests' entries end.
fn now() -> Timestamp {
    Timestamp::from_millis(0).unwrap()
}

fn digest(entries: &BTreeMap<EntryPath, FeedEntry>) -> Digest {
    ViewDigest::of(entries.iter().map(|(path, entry)| Row {
        path: path.as_str(),
        revision: entry.revision,
        content_type: entry.content_type.as_str(),
        secret: entry.secret,
        value: Digest::of(entry.value.bytes()),
    }))
}

impl HostModel {
    /// What it has of each view that it was not told to ask for.
    fn states(&self) -> Vec<ViewState> {
        let own = self.instances.keys().map(|id| ViewId::own(*id));
        let foreign = self.wanted.iter().copied();
        let views = own.chain(foreign.filter(|view| self.views.contains_key(view)));
        let known = views.filter(|view| !self.resync.contains(view));
        let state = |view| ViewState {
            view,
            digest: self.views.get(&view).map_or_else(|| ViewDigest::of([]), digest),
        };
        known.map(state).collect()
    }

    fn says(&self, states: &[ViewState]) -> SyncHost {
        let is_own = |view: &ViewId| view.reader == view.instance;
        let foreign = states.iter().map(|state| state.view).filter(|view| !is_own(view));
        let without = self.resync.iter().filter(|view| is_own(view));
        SyncHost {
            revision: self.cursor.unwrap(),
            digest: together(states),
            foreign: foreign.collect(),
            without: without.map(|view| view.instance).collect(),
        }
    }
}

impl World {
    async fn answered(&self, said: &SyncHost) -> HostSync {
        let held = self.handle.held(host(), said.foreign.clone()).await.unwrap();
        self.views.compare(said, &held, now()).await.unwrap()
    }

    /// The host is in step: it hears so, and with one view changed hears of which.
    pub(super) async fn compare(&mut self) {
        let right = self.host.states();
        let said = self.host.says(&right);
        assert_eq!(self.answered(&said).await, HostSync::InStep);
        for place in 0..right.len() {
            let mut wrong = right.clone();
            wrong[place].digest = Digest::of(b"something else");
            let HostSync::Differs { views } = self.answered(&self.host.says(&wrong)).await else {
                panic!("it was not noticed")
            };
            let right: BTreeSet<_> = right.iter().copied().collect();
            assert_eq!(views.into_iter().collect::<BTreeSet<_>>(), right);
        }
    }
}

#[tokio::test]
async fn what_is_asked_of_an_earlier_time_is_answered_as_of_then() {
    let mut world = World::new().await;
    world.happen(Event::Run).await;
    world
        .happen(Event::Put {
            instance: 0,
            path: 0,
            long: true,
        })
        .await;
    world.settle().await;
    let states = world.host.states();
    let said = world.host.says(&states);
    assert_eq!(world.answered(&said).await, HostSync::InStep);
    // The host stays where it is while its instance changes.
    world.lose().await;
    world
        .happen(Event::Put {
            instance: 0,
            path: 0,
            long: false,
        })
        .await;
    let head = world.executor.store().head().await.unwrap();
    world.handle.reached(head).await;
    assert_eq!(world.answered(&said).await, HostSync::InStep);
    world.settle().await;
    let later = world.host.says(&world.host.states());
    assert_ne!(later.digest, said.digest);
    assert_eq!(world.answered(&later).await, HostSync::InStep);
}

#[tokio::test]
async fn a_host_that_has_not_heard_of_an_instance_yet_is_told_to_come_later() {
    let mut world = World::new().await;
    world.happen(Event::Run).await;
    world.settle().await;
    let said = world.host.says(&world.host.states());
    world.lose().await;
    world.happen(Event::Run).await;
    let head = world.executor.store().head().await.unwrap();
    world.handle.reached(head).await;
    assert_eq!(world.answered(&said).await, HostSync::Later);
}

#[test]
fn an_entry_that_has_ended_counts_no_more_and_what_was_made_with_it_is_made_anew() {
    use crate::http::feed::digests::{Digests, Known, digest_of};
    use moorline_shared::Revision;
    use moorline_shared::api::feed::{View, ViewEntry};
    let entry = |path: &str, end: Option<i64>| ViewEntry {
        path: path.parse().unwrap(),
        entry: FeedEntry {
            revision: Revision::new(1, 1),
            content_type: "text/plain".parse().unwrap(),
            value: "x".into(),
            secret: false,
            expires_at: end.and_then(Timestamp::from_millis),
        },
    };
    let view = ViewId::own(InstanceId::from_bytes([1; 16]));
    let whole = |entries| View {
        view,
        revision: Revision::new(1, 1),
        entries,
    };
    let at = |ms| Timestamp::from_millis(ms).unwrap();
    let both = whole(vec![entry("a", Some(500)), entry("b", None)]);
    let (digest, until) = digest_of(&both, at(499));
    assert_eq!(until, Some(at(500)));
    assert_eq!(
        digest_of(&both, at(500)),
        digest_of(&whole(vec![entry("b", None)]), at(500))
    );
    let digests = Digests::default();
    let touched = 7;
    digests.put(
        view,
        Known {
            touched,
            until,
            digest,
        },
    );
    assert_eq!(digests.get(view, 7, at(499)), Some(digest));
    assert_eq!(digests.get(view, 7, at(500)), None);
    assert_eq!(digests.get(view, 8, at(0)), None);
}
