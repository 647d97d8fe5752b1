//! What somebody has of an instance, to be compared with what the master copy had.

use std::collections::BTreeMap;

use moorline_agent::mirror::Mirror;
use moorline_host::cache::View as Cached;
use moorline_shared::api::feed::View;
use moorline_shared::link::Moment;
use moorline_shared::{EntryPath, PathPrefix, Revision};

/// The entries of an instance that somebody has.
pub type State = BTreeMap<EntryPath, Held>;

/// An entry, by its revision and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// When it last changed.
    pub revision: Revision,
    /// Its value; values of worlds begin with what tells them from others.
    pub value: Box<[u8]>,
}

impl Held {
    /// An entry with this value.
    pub fn new(revision: Revision, value: &[u8]) -> Self {
        Self {
            revision,
            value: value.into(),
        }
    }

    fn is(&self, revision: Revision, value: &[u8]) -> bool {
        self.revision == revision && *self.value == *value
    }
}

/// What a view of the control plane shows.
pub fn of_view(view: &View) -> State {
    let entries = view.entries.iter();
    let held = |entry: &moorline_shared::api::feed::FeedEntry| Held::new(entry.revision, entry.value.bytes());
    entries
        .map(|entry| (entry.path.clone(), held(&entry.entry)))
        .collect()
}

/// Whether a mirror has just these.
pub fn mirror_has(mirror: &Mirror, state: &State, now: Moment) -> bool {
    let entries = mirror.list(&PathPrefix::ALL, now);
    let mut rest = state.iter();
    let mut same = entries.map(|entry| {
        let expected = rest.next();
        expected.is_some_and(|(path, held)| {
            path == entry.path() && held.is(entry.revision(), entry.value().bytes())
        })
    });
    same.all(|one| one) && rest.next().is_none()
}

/// Whether a host's view has just these.
pub fn view_has(view: &Cached, state: &State, now: Moment) -> bool {
    let entries = view.range(&PathPrefix::ALL, None, now);
    let mut rest = state.iter();
    let mut same = entries.map(|(path, entry)| {
        let expected = rest.next();
        expected
            .is_some_and(|(expected, held)| expected == path && held.is(entry.revision, entry.value.bytes()))
    });
    same.all(|one| one) && rest.next().is_none()
}

/// What a mirror has, for people.
pub fn shown(mirror: &Mirror, now: Moment) -> State {
    let entries = mirror.list(&PathPrefix::ALL, now);
    entries
        .map(|entry| {
            let held = Held::new(entry.revision(), entry.value().bytes());
            (entry.path().clone(), held)
        })
        .collect()
}
