//! What waits for one host: whole batches, merged into one when there are too many, and named instead of kept when
//! they are too large. What was revoked goes before all of them. Nothing here ever waits for the host.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use moorline_shared::api::feed::{FeedItem, Revocation, ViewId};
use moorline_shared::entry::MAX_INSTANCE_BYTES;
use moorline_shared::{EntryPath, InstanceId};
use tokio::sync::Notify;

use super::index::Told;
use super::stats::{Held, Stats};

/// The most batches that wait one by one.
const MAX_BATCHES: usize = 64;
/// The most bytes that wait, and that a batch takes; over it, what is said of views is dropped and the views are named.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// The most revocations that wait. The feed of a host that leaves more unread ends at once: it comes again from where it
/// stood, and is told what it missed.
const MAX_REVOKED: usize = 4_096;

/// What waits for a host.
#[derive(Debug, Default)]
pub struct Queue {
    pending: Mutex<Pending>,
    news: Notify,
    stats: Arc<Stats>,
}

#[derive(Debug, Default)]
struct Pending {
    revoked: VecDeque<Revocation>,
    batches: VecDeque<Waiting>,
    bytes: usize,
    end: End,
}

/// When a feed ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    /// It goes on.
    #[default]
    None,
    /// Once what waits is sent.
    AfterAll,
    /// Now: something was left out, so that nothing may be sent any more that says where the host stands.
    AtOnce,
}

/// A batch that waits.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// The last transaction it holds.
    pub to: u64,
    /// What changed.
    pub told: Vec<Told>,
    /// Views whose changes were dropped; nothing else is said of them.
    pub resync: BTreeSet<ViewId>,
}

/// What the queue has.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// Something is worth nothing from now on.
    Revoked(Revocation),
    /// A batch.
    Batch(Waiting),
    /// Nothing at present.
    Empty,
    /// Nothing any more: another feed of the same host took over, the control plane ends, or something was left out.
    Closed,
}

impl Queue {
    /// A queue in which nothing waits, and which counts here.
    pub fn counted(stats: Arc<Stats>) -> Self {
        Self {
            pending: Mutex::default(),
            news: Notify::new(),
            stats,
        }
    }

    /// Puts a transaction's batch at the end.
    pub fn push(&self, to: u64, told: Vec<Told>) {
        let batch = Waiting {
            to,
            told,
            resync: BTreeSet::new(),
        };
        let batch = batch.within_bound();
        let mut pending = self.lock();
        if pending.end == End::AtOnce {
            return;
        }
        let before = pending.held();
        pending.bytes += batch.held();
        pending.batches.push_back(batch);
        if pending.batches.len() > MAX_BATCHES || pending.bytes > MAX_BYTES {
            pending.merge();
            self.stats.merged.fetch_add(1, Ordering::Relaxed);
        }
        self.stats.moved(before, pending.held());
        drop(pending);
        self.news.notify_one();
    }

    /// Has the host told of this before anything else.
    pub fn revoke(&self, revocation: Revocation) {
        let mut pending = self.lock();
        if pending.revoked.len() < MAX_REVOKED {
            pending.revoked.push_back(revocation);
        } else {
            let before = pending.held();
            *pending = Pending {
                end: End::AtOnce,
                ..Pending::default()
            };
            self.stats.moved(before, pending.held());
        }
        drop(pending);
        self.news.notify_one();
    }

    /// Takes the first revocation, if one waits.
    pub fn take_revoked(&self) -> Option<Revocation> {
        self.lock().revoked.pop_front()
    }

    /// Whether something was left out that the host has to be told of. Nothing may be said any more of where it stands.
    pub fn has_lost(&self) -> bool {
        self.lock().end == End::AtOnce
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        let pending = self.lock();
        pending.revoked.is_empty() && pending.batches.is_empty()
    }

    /// Ends the feed once what waits is sent.
    pub fn close(&self) {
        let mut pending = self.lock();
        if pending.end == End::None {
            pending.end = End::AfterAll;
        }
        drop(pending);
        self.news.notify_one();
    }

    /// Takes what is next: revocations, then batches.
    pub fn take(&self) -> Next {
        let mut pending = self.lock();
        if let Some(revocation) = pending.revoked.pop_front() {
            return Next::Revoked(revocation);
        }
        match pending.batches.pop_front() {
            Some(batch) => {
                let before = Held {
                    batches: pending.batches.len() + 1,
                    bytes: pending.bytes,
                };
                pending.bytes = pending.bytes.saturating_sub(batch.held());
                self.stats.moved(before, pending.held());
                let named = batch.resync.len() as u64;
                self.stats.resyncs.fetch_add(named, Ordering::Relaxed);
                Next::Batch(batch)
            }
            None if pending.end == End::None => Next::Empty,
            None => Next::Closed,
        }
    }

    /// Waits until there may be something to take. Cancel-safe: news that nobody took is kept.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        // A panic while the lock is held leaves a queue that is whole: every change is one push or pop.
        self.pending
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Queue {
    /// What nobody took waits no more.
    fn drop(&mut self) {
        let held = self.lock().held();
        self.stats.moved(held, Held::default());
    }
}

/// What an item is about: of several, the last one counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    Instance(InstanceId),
    View(ViewId),
    Entry(ViewId, EntryPath),
}

fn about(told: &Told) -> About {
    match told {
        Told::Item(FeedItem::Instance(spec)) => About::Instance(spec.instance),
        Told::Item(FeedItem::InstanceGone { instance }) => About::Instance(*instance),
        Told::Item(FeedItem::View(view)) => About::View(view.view),
        Told::Item(FeedItem::Entry { view, path, .. }) | Told::Withheld(view, path) => {
            About::Entry(*view, path.clone())
        }
        Told::Reread(view) => About::View(*view),
    }
}

/// About what an item takes as it waits, in bytes.
fn held(told: &Told) -> usize {
    let content = match told {
        Told::Item(FeedItem::Entry { path, entry, .. }) => {
            path.len() + entry.as_ref().map_or(0, |e| e.value.len())
        }
        Told::Withheld(_, path) => path.len(),
        Told::Item(_) | Told::Reread(_) => 0,
    };
    size_of::<Told>() + content
}

/// The most that it takes as it is sent, in bytes: a view is read only then.
fn sent(told: &Told) -> usize {
    let view = match told {
        Told::Reread(_) => MAX_INSTANCE_BYTES,
        Told::Item(_) | Told::Withheld(..) => 0,
    };
    held(told) + view
}

impl Waiting {
    /// Names the views instead of what is said of them if the batch would be too large to be sent.
    fn within_bound(mut self) -> Self {
        if self.told.iter().map(sent).sum::<usize>() > MAX_BYTES {
            self.resync.extend(self.told.iter().filter_map(of_view));
        }
        let resync = &self.resync;
        self.told
            .retain(|told| of_view(told).is_none_or(|view| !resync.contains(&view)));
        self
    }

    fn held(&self) -> usize {
        self.told.iter().map(held).sum()
    }
}

impl Pending {
    fn held(&self) -> Held {
        Held {
            batches: self.batches.len(),
            bytes: self.bytes,
        }
    }

    /// Makes one batch of all.
    fn merge(&mut self) {
        let Some(to) = self.batches.back().map(|last| last.to) else {
            return;
        };
        let mut merged: BTreeMap<About, Told> = BTreeMap::new();
        let mut resync = BTreeSet::new();
        for batch in self.batches.drain(..) {
            resync.extend(batch.resync);
            for told in batch.told {
                add(&mut merged, told);
            }
        }
        let told = merged.into_values().collect();
        let whole = Waiting { to, told, resync }.within_bound();
        self.bytes = whole.held();
        self.batches.push_back(whole);
    }
}

/// A view that is to be read anew makes its entries before it superfluous.
fn add(merged: &mut BTreeMap<About, Told>, told: Told) {
    if let About::View(view) = about(&told) {
        merged.retain(|about, _| !matches!(about, About::Entry(of, _) if *of == view));
    }
    merged.insert(about(&told), told);
}

/// Of which view it is, if it is of one.
fn of_view(told: &Told) -> Option<ViewId> {
    match about(told) {
        About::Entry(view, _) | About::View(view) => Some(view),
        About::Instance(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_BATCHES, MAX_REVOKED, Next, Queue};
    use crate::http::feed::index::Told;
    use moorline_shared::api::feed::{FeedEntry, FeedItem, Revocation, Revoked, ViewId};
    use moorline_shared::entry::Value;
    use moorline_shared::{InstanceId, Revision, Timestamp};

    fn put(n: u64, path: &str, size: usize) -> Vec<Told> {
        let view = ViewId::own(InstanceId::from_bytes([1; 16]));
        let value = Value::from(bytes::Bytes::from(vec![b'x'; size]));
        let entry = FeedEntry {
            revision: Revision::new(1, n),
            content_type: Default::default(),
            value,
            secret: false,
            expires_at: None,
        };
        vec![Told::Item(FeedItem::Entry {
            view,
            path: path.parse().unwrap(),
            entry: Some(entry),
        })]
    }

    #[test]
    fn batches_stay_whole_until_there_are_too_many_and_then_the_last_value_counts() {
        let queue = Queue::default();
        for n in 1..=MAX_BATCHES as u64 {
            queue.push(n, put(n, if n % 2 == 0 { "even" } else { "odd" }, 1));
        }
        assert!(matches!(queue.take(), Next::Batch(batch) if batch.to == 1 && batch.told.len() == 1));
        for n in 65..=67 {
            queue.push(n, put(n, "more", 1));
        }
        let Next::Batch(batch) = queue.take() else {
            panic!("nothing waits")
        };
        assert_eq!((batch.to, batch.told.len(), batch.resync.len()), (66, 3, 0));
        assert!(matches!(queue.take(), Next::Batch(batch) if batch.to == 67));
        assert_eq!(queue.take(), Next::Empty);
    }

    fn revocation(n: u64) -> Revocation {
        let time = Timestamp::from_millis(0).unwrap();
        Revocation {
            sequence: Revision::new(1, n),
            revoked: Revoked::Key { id: 1 },
            not_before: time,
            until: time,
        }
    }

    #[test]
    fn what_was_revoked_goes_first_in_its_order_and_is_never_left_out() {
        let queue = Queue::default();
        queue.push(1, put(1, "a", 1));
        (2..=3).for_each(|n| queue.revoke(revocation(n)));
        assert_eq!(queue.take(), Next::Revoked(revocation(2)));
        assert_eq!(queue.take_revoked(), Some(revocation(3)));
        assert!(!queue.is_empty() && matches!(queue.take(), Next::Batch(_)) && queue.is_empty());
    }

    #[test]
    fn a_feed_that_left_a_revocation_out_says_nothing_more() {
        let queue = Queue::default();
        for n in 1..=MAX_REVOKED as u64 {
            queue.revoke(revocation(n));
        }
        queue.push(MAX_REVOKED as u64, put(1, "a", 1));
        assert!(!queue.has_lost());
        queue.revoke(revocation(MAX_REVOKED as u64 + 1));
        queue.push(MAX_REVOKED as u64 + 2, put(2, "a", 1));
        queue.close();
        assert!(queue.has_lost() && queue.take_revoked().is_none());
        assert_eq!(queue.take(), Next::Closed, "the host comes again for all of it");
    }

    #[test]
    fn too_much_is_named_instead_of_kept() {
        let queue = Queue::default();
        for n in 1..=30 {
            queue.push(n, put(n, &format!("p{n}"), 200_000));
        }
        let mut resync = 0;
        while let Next::Batch(batch) = queue.take() {
            resync += batch.resync.len();
        }
        assert_eq!(resync, 1);
    }

    #[test]
    fn views_to_be_read_count_as_they_are_sent_but_not_while_they_wait() {
        let views: Vec<_> = (1..=5)
            .map(|n| ViewId::own(InstanceId::from_bytes([n; 16])))
            .collect();
        let queue = Queue::default();
        for (n, view) in (1..).zip(&views) {
            queue.push(n, vec![Told::Reread(*view)]);
        }
        for n in 1..=5 {
            assert!(matches!(queue.take(), Next::Batch(batch) if batch.to == n && batch.told.len() == 1));
        }
        queue.push(6, views.iter().copied().map(Told::Reread).collect());
        let Next::Batch(batch) = queue.take() else {
            panic!("nothing waits")
        };
        assert_eq!((batch.told, batch.resync), (vec![], views.into_iter().collect()));
    }

    #[test]
    fn nothing_is_said_of_a_view_that_is_named() {
        let queue = Queue::default();
        for n in 1..=30 {
            queue.push(n, put(n, &format!("p{n}"), 200_000));
        }
        for n in 31..=31 + MAX_BATCHES as u64 {
            queue.push(n, put(n, "small", 1));
        }
        let Next::Batch(batch) = queue.take() else {
            panic!("nothing waits")
        };
        assert_eq!((batch.told.len(), batch.resync.len()), (0, 1), "{batch:?}");
    }
}
