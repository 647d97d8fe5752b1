//! A host that keeps what its feed says.

use std::collections::{BTreeMap, BTreeSet};

use moorline_shared::api::feed::{FeedEntry, FeedItem, FeedMessage, Revocation, Revoked, ViewEntry, ViewId};
use moorline_shared::{EntryPath, InstanceId, Revision};

/// What a host keeps, by the feed's rules alone.
#[derive(Debug, Default)]
pub(super) struct HostModel {
    pub(super) session: u64,
    pub(super) cursor: Option<Revision>,
    /// Each with the revision of what was last said of it.
    pub(super) instances: BTreeMap<InstanceId, Revision>,
    pub(super) views: BTreeMap<ViewId, BTreeMap<EntryPath, FeedEntry>>,
    pub(super) wanted: BTreeSet<ViewId>,
    /// Those that the open feed was asked for after it was opened.
    pub(super) asked: BTreeSet<ViewId>,
    pub(super) resync: BTreeSet<ViewId>,
    /// What is still coming of a snapshot or a batch.
    pub(super) coming: Coming,
    /// The sessions that it was told are over.
    pub(super) revoked: BTreeSet<String>,
    /// The last revocation of the open feed.
    last: Option<Revision>,
}

#[derive(Debug, Default)]
pub(super) struct Coming {
    /// Of a snapshot.
    pub(super) from: Option<Revision>,
    pub(super) items: Vec<FeedItem>,
    pub(super) resync: BTreeSet<ViewId>,
}

impl Coming {
    fn more(&mut self, of: ViewId, entries: Vec<ViewEntry>) {
        match self.items.last_mut() {
            Some(FeedItem::View(view)) if view.view == of => view.entries.extend(entries),
            other => panic!("more of {of:?} comes after {other:?}"),
        }
    }
}

impl HostModel {
    pub(super) fn apply(&mut self, message: FeedMessage) {
        match message {
            FeedMessage::Hello { session, .. } => {
                self.session = session;
                self.coming = Coming::default();
                self.asked.clear();
                self.last = None;
            }
            FeedMessage::Revoked(revocation) => self.revoke(revocation),
            FeedMessage::Bookmark { revision } => self.advance(revision),
            FeedMessage::Resync { view } => drop(self.coming.resync.insert(view)),
            FeedMessage::Snapshot { from, .. } => {
                assert!(
                    from.is_none() || from == self.cursor,
                    "a cursor of somebody else's"
                );
                self.coming = Coming {
                    from,
                    ..Coming::default()
                };
            }
            FeedMessage::Part { items } => self.coming.items.extend(items),
            FeedMessage::More { view, entries } => self.coming.more(view, entries),
            FeedMessage::SnapshotEnd { to } => {
                let coming = std::mem::take(&mut self.coming);
                self.keep_named(&coming);
                self.apply_whole(coming.items, to);
            }
            FeedMessage::Batch { from, to, items } => {
                assert_eq!(Some(from), self.cursor, "a batch must build on what the host has");
                let mut coming = std::mem::take(&mut self.coming);
                coming.items.extend(items);
                self.resync.extend(coming.resync);
                self.apply_whole(coming.items, to);
            }
        }
    }

    fn revoke(&mut self, revocation: Revocation) {
        assert!(
            self.last <= Some(revocation.sequence),
            "a revocation out of its order"
        );
        assert!(revocation.not_before < revocation.until, "{revocation:?}");
        self.last = Some(revocation.sequence);
        match revocation.revoked {
            Revoked::Session { id, .. } => drop(self.revoked.insert(id)),
            Revoked::Key { .. } => panic!("nobody destroyed a key"),
        }
    }

    fn apply_whole(&mut self, items: Vec<FeedItem>, to: Revision) {
        for item in items {
            self.apply_item(item);
        }
        self.advance(to);
        self.check_pairs();
    }

    /// A snapshot names every instance of the host, and without a cursor brings every view.
    fn keep_named(&mut self, snapshot: &Coming) {
        if snapshot.from.is_none() {
            self.forget();
        }
        let named = |item: &FeedItem| match item {
            FeedItem::Instance(spec) => Some(spec.instance),
            _ => None,
        };
        let named: BTreeSet<_> = snapshot.items.iter().filter_map(named).collect();
        self.instances.retain(|instance, _| named.contains(instance));
        self.views.retain(|view, _| named.contains(&view.reader));
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
            FeedItem::Instance(spec) => drop(self.instances.insert(spec.instance, spec.revision)),
            FeedItem::InstanceGone { instance } => {
                self.instances.remove(&instance);
                self.views.retain(|view, _| view.reader != instance);
            }
            FeedItem::View(view)
                if view.view.reader != view.view.instance && !self.wanted.contains(&view.view) => {}
            FeedItem::View(view) => {
                let entries = view.entries.into_iter().map(|entry| (entry.path, entry.entry));
                self.views.insert(view.view, entries.collect());
                self.resync.remove(&view.view);
            }
            // A view of another instance comes whole first.
            FeedItem::Entry { view, .. }
                if view.reader != view.instance && !self.views.contains_key(&view) => {}
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
