//! Puts the lines of a feed together: what takes several is given on once it is whole.

use std::collections::BTreeSet;

use moorline_shared::Revision;
use moorline_shared::api::feed::{FeedItem, FeedMessage, InstanceSpec, View, ViewEntry, ViewId};
use moorline_shared::entry::MAX_INSTANCE_BYTES;

/// The most bytes of values that a batch or a view may have: well above what a control plane sends.
const MAX_BYTES: usize = 16 * MAX_INSTANCE_BYTES;

/// Something that can be applied.
#[derive(Debug, PartialEq, Eq)]
pub enum Whole {
    /// A snapshot has named every instance of the host.
    Instances {
        /// The cursor that it goes on from; `None` for everything anew.
        from: Option<Revision>,
        /// The state that it shows.
        to: Revision,
        /// All of them.
        instances: Vec<InstanceSpec>,
    },
    /// A view of a snapshot.
    View(View),
    /// A snapshot is whole.
    SnapshotEnd(Revision),
    /// What changed, to be applied together.
    Batch(Batch),
    /// All was told that concerns the host up to here.
    Bookmark(Revision),
}

/// A batch of the feed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// What it builds on.
    pub from: Revision,
    /// Where the host stands then.
    pub to: Revision,
    /// What changed.
    pub items: Vec<FeedItem>,
    /// Views whose changes were dropped.
    pub resync: BTreeSet<ViewId>,
}

/// A line that doesn't belong where it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misplaced {
    /// It belongs to something that has not begun, or has ended.
    #[error("{0} came out of its turn")]
    OutOfTurn(&'static str),
    /// More came together than a control plane sends.
    #[error("a batch or a view of more than {MAX_BYTES} bytes came")]
    TooLarge,
}

/// The lines of one session. It holds one view of a snapshot, or one batch.
#[derive(Debug, Default)]
pub struct Assembly {
    coming: Coming,
    /// The bytes of the values that are held.
    bytes: usize,
}

#[derive(Debug, Default)]
enum Coming {
    /// The first snapshot has not begun.
    #[default]
    Nothing,
    /// Nothing of a poll has come: its first snapshot may begin, and need not.
    Poll,
    Snapshot(Snapshot),
    /// What has come of the next batch.
    Batch(Batch),
}

#[derive(Debug)]
struct Snapshot {
    from: Option<Revision>,
    to: Revision,
    /// The instances, until all are named.
    instances: Option<Vec<InstanceSpec>>,
    view: Option<View>,
}

impl Snapshot {
    /// All instances were named before this.
    fn named(&mut self) -> Option<Whole> {
        let (from, to) = (self.from, self.to);
        self.instances
            .take()
            .map(|instances| Whole::Instances { from, to, instances })
    }

    fn item(&mut self, item: FeedItem) -> Result<Vec<Whole>, Misplaced> {
        match (item, &mut self.instances) {
            (FeedItem::Instance(spec), Some(instances)) => {
                instances.push(spec);
                Ok(Vec::new())
            }
            (FeedItem::View(view), _) => {
                let before = self.named().into_iter().chain(self.view.take().map(Whole::View));
                let before = before.collect();
                self.view = Some(view);
                Ok(before)
            }
            _ => Err(Misplaced::OutOfTurn("an item of a snapshot")),
        }
    }
}

impl Assembly {
    /// Nothing has come.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing has come of a poll, which brings no snapshot where the host stands right.
    pub fn of_poll() -> Self {
        Self {
            coming: Coming::Poll,
            bytes: 0,
        }
    }

    /// Whether the host has not been brought to where the feed begins. A poll of which nothing has come may be kept, because
    /// it has been.
    pub fn catches_up(&self) -> bool {
        !matches!(self.coming, Coming::Batch(_) | Coming::Poll)
    }

    /// Takes the next line, and gives what is whole with it, in its order.
    pub fn take(&mut self, message: FeedMessage) -> Result<Vec<Whole>, Misplaced> {
        let decides = !matches!(message, FeedMessage::Revoked(_) | FeedMessage::Snapshot { .. });
        if decides && matches!(self.coming, Coming::Poll) {
            self.coming = Coming::Batch(Batch::default());
        }
        match message {
            FeedMessage::Hello { .. } => Err(Misplaced::OutOfTurn("a hello")),
            // It may come between any two lines, and belongs to neither.
            FeedMessage::Revoked(_) => Ok(Vec::new()),
            FeedMessage::Snapshot { from, to } => self.begin(from, to),
            FeedMessage::Part { items } => self.part(items),
            FeedMessage::More { view, entries } => self.more(view, entries),
            FeedMessage::SnapshotEnd { to } => self.end(to),
            FeedMessage::Resync { view } => {
                self.batch("a resync")?.resync.insert(view);
                Ok(Vec::new())
            }
            FeedMessage::Batch { from, to, items } => {
                self.part(items)?;
                self.bytes = 0;
                let whole = std::mem::take(self.batch("a batch")?);
                Ok(vec![Whole::Batch(Batch { from, to, ..whole })])
            }
            FeedMessage::Bookmark { revision } => match self.batch("a bookmark")? {
                batch if batch.items.is_empty() && batch.resync.is_empty() => {
                    Ok(vec![Whole::Bookmark(revision)])
                }
                _ => Err(Misplaced::OutOfTurn("a bookmark")),
            },
        }
    }

    fn begin(&mut self, from: Option<Revision>, to: Revision) -> Result<Vec<Whole>, Misplaced> {
        if !matches!(self.coming, Coming::Nothing | Coming::Poll) {
            return Err(Misplaced::OutOfTurn("a snapshot"));
        }
        self.coming = Coming::Snapshot(Snapshot {
            from,
            to,
            instances: Some(Vec::new()),
            view: None,
        });
        Ok(Vec::new())
    }

    fn part(&mut self, items: Vec<FeedItem>) -> Result<Vec<Whole>, Misplaced> {
        let mut whole = Vec::new();
        for item in items {
            if let (Coming::Snapshot(_), FeedItem::View(_)) = (&self.coming, &item) {
                self.bytes = 0;
            }
            self.hold(bytes(&item))?;
            match &mut self.coming {
                Coming::Nothing | Coming::Poll => return Err(Misplaced::OutOfTurn("a part")),
                Coming::Snapshot(snapshot) => whole.extend(snapshot.item(item)?),
                Coming::Batch(batch) => batch.items.push(item),
            }
        }
        Ok(whole)
    }

    fn more(&mut self, of: ViewId, entries: Vec<ViewEntry>) -> Result<Vec<Whole>, Misplaced> {
        self.hold(entries.iter().map(|entry| entry.entry.value.len()).sum())?;
        let view = match &mut self.coming {
            Coming::Nothing | Coming::Poll => None,
            Coming::Snapshot(snapshot) => snapshot.view.as_mut(),
            Coming::Batch(batch) => match batch.items.last_mut() {
                Some(FeedItem::View(view)) => Some(view),
                _ => None,
            },
        };
        let view = view.filter(|view| view.view == of);
        let view = view.ok_or(Misplaced::OutOfTurn("more of a view"))?;
        view.entries.extend(entries);
        Ok(Vec::new())
    }

    fn end(&mut self, to: Revision) -> Result<Vec<Whole>, Misplaced> {
        let Coming::Snapshot(snapshot) = &mut self.coming else {
            return Err(Misplaced::OutOfTurn("a snapshot's end"));
        };
        let last = snapshot
            .named()
            .into_iter()
            .chain(snapshot.view.take().map(Whole::View));
        let whole = last.chain([Whole::SnapshotEnd(to)]).collect();
        self.coming = Coming::Batch(Batch::default());
        self.bytes = 0;
        Ok(whole)
    }

    fn batch(&mut self, line: &'static str) -> Result<&mut Batch, Misplaced> {
        match &mut self.coming {
            Coming::Batch(batch) => Ok(batch),
            Coming::Nothing | Coming::Poll | Coming::Snapshot(_) => Err(Misplaced::OutOfTurn(line)),
        }
    }

    fn hold(&mut self, bytes: usize) -> Result<(), Misplaced> {
        self.bytes += bytes;
        if self.bytes > MAX_BYTES {
            return Err(Misplaced::TooLarge);
        }
        Ok(())
    }
}

fn bytes(item: &FeedItem) -> usize {
    match item {
        FeedItem::Instance(_) | FeedItem::InstanceGone { .. } => 0,
        FeedItem::View(view) => view.entries.iter().map(|entry| entry.entry.value.len()).sum(),
        FeedItem::Entry { entry, .. } => entry.as_ref().map_or(0, |entry| entry.value.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Assembly, MAX_BYTES, Misplaced, Whole};
    use crate::link::tests::{entry, path, revision, spec, view};
    use moorline_shared::api::feed::{FeedItem, FeedMessage, View, ViewEntry};

    fn of(item: FeedItem) -> View {
        let FeedItem::View(view) = item else {
            panic!("{item:?} is no view")
        };
        view
    }

    fn part(items: Vec<FeedItem>) -> FeedMessage {
        FeedMessage::Part { items }
    }

    /// The rest of the view of instance `n` on itself.
    fn more(n: u8, at: &str) -> FeedMessage {
        let entry = ViewEntry {
            path: path(at),
            entry: entry(5, "more"),
        };
        FeedMessage::More {
            view: of(view(n, n, 5, &[])).view,
            entries: vec![entry],
        }
    }

    fn begun() -> Assembly {
        let mut assembly = Assembly::new();
        let (from, to) = (None, revision(5));
        assert_eq!(assembly.take(FeedMessage::Snapshot { from, to }), Ok(vec![]));
        assembly
    }

    #[test]
    fn a_view_of_a_snapshot_is_given_on_when_the_next_begins() {
        let mut assembly = begun();
        let named = part(vec![FeedItem::Instance(spec(1)), FeedItem::Instance(spec(2))]);
        assert_eq!(assembly.take(named), Ok(vec![]));
        let instances = Whole::Instances {
            from: None,
            to: revision(5),
            instances: vec![spec(1), spec(2)],
        };
        let first = part(vec![view(1, 1, 5, &[("a", "1")])]);
        assert_eq!(assembly.take(first), Ok(vec![instances]));
        assert_eq!(assembly.take(more(1, "b")), Ok(vec![]));
        let given = assembly.take(part(vec![view(2, 2, 5, &[])])).unwrap();
        assert!(
            matches!(&given[..], [Whole::View(view)] if view.entries.len() == 2),
            "{given:?}"
        );
        assert!(assembly.catches_up());
        let end = assembly.take(FeedMessage::SnapshotEnd { to: revision(5) });
        let expected = vec![
            Whole::View(of(view(2, 2, 5, &[]))),
            Whole::SnapshotEnd(revision(5)),
        ];
        assert_eq!(end, Ok(expected));
        assert!(!assembly.catches_up());
    }

    #[test]
    fn a_batch_is_given_on_with_its_last_line() {
        let mut assembly = begun();
        let (from, to) = (revision(5), revision(6));
        assembly.take(FeedMessage::SnapshotEnd { to: from }).unwrap();
        let lost = of(view(2, 2, 5, &[])).view;
        assert_eq!(assembly.take(FeedMessage::Resync { view: lost }), Ok(vec![]));
        assert_eq!(assembly.take(part(vec![view(1, 1, 6, &[])])), Ok(vec![]));
        assert_eq!(assembly.take(more(1, "b")), Ok(vec![]));
        let items = vec![FeedItem::Instance(spec(1))];
        let given = assembly.take(FeedMessage::Batch { from, to, items }).unwrap();
        assert!(
            matches!(&given[..], [Whole::Batch(batch)] if batch.items.len() == 2 && batch.resync == [lost].into()),
            "{given:?}"
        );
        let items = Vec::new();
        let given = assembly.take(FeedMessage::Batch { from, to, items }).unwrap();
        assert!(
            matches!(&given[..], [Whole::Batch(batch)] if batch.items.is_empty() && batch.resync.is_empty())
        );
    }

    #[test]
    fn what_doesnt_belong_together_is_refused() {
        let bookmark = || FeedMessage::Bookmark {
            revision: revision(6),
        };
        assert!(Assembly::new().take(bookmark()).is_err());
        assert!(begun().take(bookmark()).is_err());
        assert!(begun().take(more(1, "a")).is_err());
        let mut assembly = begun();
        assembly.take(part(vec![view(1, 1, 5, &[])])).unwrap();
        assert!(assembly.take(more(2, "a")).is_err());
        let late = part(vec![FeedItem::Instance(spec(1))]);
        assert!(assembly.take(late).is_err());
        assembly
            .take(FeedMessage::SnapshotEnd { to: revision(5) })
            .unwrap();
        assembly.take(part(vec![FeedItem::Instance(spec(1))])).unwrap();
        assert!(assembly.take(bookmark()).is_err(), "a batch is open");
    }

    #[test]
    fn a_poll_begins_with_a_snapshot_or_without() {
        let (from, to) = (revision(5), revision(6));
        let mut assembly = Assembly::of_poll();
        let bookmark = assembly.take(FeedMessage::Bookmark { revision: to });
        assert_eq!(bookmark, Ok(vec![Whole::Bookmark(to)]));
        assert!(!assembly.catches_up());
        let snapshot = || FeedMessage::Snapshot { from: Some(from), to };
        assert!(assembly.take(snapshot()).is_err(), "it came too late");
        let mut assembly = Assembly::of_poll();
        assembly.take(snapshot()).unwrap();
        assert!(assembly.catches_up());
        assert!(assembly.take(snapshot()).is_err());
        assembly.take(FeedMessage::SnapshotEnd { to }).unwrap();
        assert!(!assembly.catches_up());
        let mut assembly = Assembly::of_poll();
        let items = vec![FeedItem::Instance(spec(1))];
        let given = assembly.take(FeedMessage::Batch { from, to, items }).unwrap();
        assert!(matches!(&given[..], [Whole::Batch(batch)] if batch.items.len() == 1));
    }

    #[test]
    fn what_never_ends_is_not_held() {
        let mut assembly = begun();
        let value = "x".repeat(1 << 18);
        assembly
            .take(part(vec![view(1, 1, 5, &[("a", &value)])]))
            .unwrap();
        let more = |n: usize| FeedMessage::More {
            view: of(view(1, 1, 5, &[])).view,
            entries: of(view(1, 1, 5, &[(&n.to_string(), &value)])).entries,
        };
        let mut lines = (0..=MAX_BYTES / value.len()).map(|n| assembly.take(more(n)));
        assert!(lines.any(|taken| taken == Err(Misplaced::TooLarge)));
    }
}
