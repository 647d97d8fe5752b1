//! A host that keeps what its feed says.

use std::collections::{BTreeMap, BTreeSet};

use moorline_shared::api::feed::{FeedEntry, FeedItem, FeedMessage, ViewId};
use moorline_shared::{EntryPath, InstanceId, Revision};

/// What a host keeps, by the feed's rules alone.
#[derive(Debug, Default)]
pub(super) struct HostModel {
    pub(super) session: u64,
    pub(super) cursor: Option<Revision>,
    pub(super) instances: BTreeSet<InstanceId>,
    pub(super) views: BTreeMap<ViewId, BTreeMap<EntryPath, FeedEntry>>,
    pub(super) wanted: BTreeSet<ViewId>,
    pub(super) resync: BTreeSet<ViewId>,
}

impl HostModel {
    pub(super) fn apply(&mut self, message: FeedMessage) {
        match message {
            FeedMessage::Hello { session, .. } => self.session = session,
            FeedMessage::Bookmark { revision } => self.advance(revision),
            FeedMessage::Resync { view } => drop(self.resync.insert(view)),
            FeedMessage::Batch { from, to, items } => {
                match from {
                    Some(from) => {
                        assert_eq!(Some(from), self.cursor, "a batch must build on what the host has");
                    }
                    None => self.forget(),
                }
                for item in items {
                    self.apply_item(item);
                }
                self.advance(to);
                self.check_pairs();
            }
        }
    }

    pub(super) fn forget(&mut self) {
        self.instances.clear();
        self.views.clear();
    }

    pub(super) fn advance(&mut self, to: Revision) {
        assert!(
            self.cursor.is_none_or(|cursor| cursor <= to),
            "a revision went back"
        );
        self.cursor = Some(to);
    }

    fn apply_item(&mut self, item: FeedItem) {
        match item {
            FeedItem::Instance(spec) => drop(self.instances.insert(spec.instance)),
            FeedItem::InstanceGone { instance } => {
                self.instances.remove(&instance);
                self.views.retain(|view, _| view.reader != instance);
            }
            FeedItem::View(view) => {
                let entries = view.entries.into_iter().map(|entry| (entry.path, entry.entry));
                self.views.insert(view.view, entries.collect());
                self.resync.remove(&view.view);
            }
            FeedItem::Entry { view, path, entry } => {
                let entries = self.views.entry(view).or_default();
                let old = match entry {
                    Some(entry) => {
                        let revision = entry.revision;
                        entries.insert(path, entry).map(|old| (old.revision, revision))
                    }
                    None => entries.remove(&path).map(|old| (old.revision, old.revision)),
                };
                assert!(old.is_none_or(|(old, new)| old <= new), "an entry went back");
            }
        }
    }

    /// Two entries are only ever written in one transaction and with one value: a host never has half of it.
    fn check_pairs(&self) {
        for (view, entries) in &self.views {
            let [left, right] =
                ["pair/a", "pair/b"].map(|path| entries.get(path).map(|entry| entry.value.clone()));
            assert_eq!(left, right, "half a transaction is in {view:?}");
        }
    }
}
