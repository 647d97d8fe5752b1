//! What there is of all views, to be compared with what there should be: a piece at a time, since it looks at every byte.

use moorline_shared::api::feed::ViewId;
use moorline_shared::{Digest, Revision};

use super::Cache;
use super::view::View;

/// What the host has of a view, to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which view.
    pub view: ViewId,
    /// Up to where it is known to be as it is.
    pub known: Revision,
    /// What it comes to; `None` if it is not served, or has lost changes and is being asked for.
    pub digest: Option<Digest>,
}

impl Held {
    /// Whether an instance sees itself in it.
    pub fn is_own(&self) -> bool {
        self.view.reader == self.view.instance
    }
}

/// What a look at all views came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inventory {
    /// What there is of each.
    Complete(Vec<Held>),
    /// As many bytes were looked at as may be at once. What they come to is remembered: the next look goes on from there.
    Unfinished,
}

impl Cache {
    /// What there is of every view, and what it comes to. For that it looks at `most` bytes that have changed since the
    /// last look, and then at no further view. What has ended by then is [removed](Self::expire) before.
    pub fn held(&self, most: usize) -> Inventory {
        let (mut all, mut left) = (Vec::new(), most);
        for (reader, known) in &self.instances {
            let own = (ViewId::own(*reader), known.own.as_ref());
            for (view, shown) in [own].into_iter().chain(known.foreign.all(*reader)) {
                let unseen = shown.map_or(0, View::unseen);
                if unseen > 0 && left == 0 {
                    return Inventory::Unfinished;
                }
                left = left.saturating_sub(unseen);
                all.push(Held {
                    view,
                    known: shown.map_or(Revision::ZERO, View::known),
                    digest: shown.and_then(View::digest_in_step),
                });
            }
        }
        Inventory::Complete(all)
    }
}

#[cfg(test)]
mod tests {
    use moorline_shared::api::feed::{FeedItem, ViewId};

    use super::{Held, Inventory};
    use crate::cache::{Cache, FeedBatch};
    use crate::config::CacheConfig;
    use crate::link::now_and_time;
    use crate::link::tests::{entry, id, path, revision, spec, view};

    const VIEWS: u8 = 12;
    const VALUE: usize = 10_000;

    /// Views of one value each.
    fn filled() -> Cache {
        let value = "x".repeat(VALUE);
        let mut items: Vec<_> = (1..=VIEWS).map(|n| FeedItem::Instance(spec(n))).collect();
        items.extend((1..=VIEWS).map(|n| view(n, n, 5, &[("a", &*value)])));
        let mut cache = Cache::new(CacheConfig::default());
        let (from, to) = (None, revision(5));
        cache.apply(FeedBatch { from, to, items }, now_and_time());
        cache
    }

    /// How many looks it takes until all is known, of so many bytes each, and what that is.
    fn looks(cache: &Cache, most: usize) -> (usize, Vec<Held>) {
        for looks in 1..=usize::from(VIEWS) + 1 {
            if let Inventory::Complete(mut held) = cache.held(most) {
                held.sort_unstable_by_key(|held| held.view);
                return (looks, held);
            }
        }
        panic!("a look found nothing that the looks before had not seen");
    }

    #[test]
    fn no_look_is_at_more_than_its_bound_and_one_view() {
        for at_once in 1..=usize::from(VIEWS) {
            // The last view of a look begins below the bound.
            let (looks, held) = looks(&filled(), at_once * VALUE);
            assert_eq!(looks, usize::from(VIEWS).div_ceil(at_once));
            let whole = filled().held(usize::MAX);
            let Inventory::Complete(mut whole) = whole else {
                panic!("there was a bound");
            };
            whole.sort_unstable_by_key(|held| held.view);
            assert_eq!(held, whole);
        }
    }

    #[test]
    fn what_has_not_changed_is_not_looked_at_again() {
        let mut cache = filled();
        let (_, before) = looks(&cache, VALUE);
        assert_eq!(looks(&cache, 0).0, 1);
        let change = FeedItem::Entry {
            view: ViewId::own(id(3)),
            path: path("a"),
            entry: Some(entry(6, "y")),
        };
        let (from, to) = (Some(revision(5)), revision(6));
        let items = vec![change];
        cache.apply(FeedBatch { from, to, items }, now_and_time());
        assert_eq!(cache.held(0), Inventory::Unfinished);
        let (_, after) = looks(&cache, 1);
        let changed = before
            .iter()
            .zip(&after)
            .filter(|(before, after)| before.digest != after.digest);
        let changed: Vec<_> = changed.map(|(before, _)| before.view.instance).collect();
        assert_eq!(changed, [id(3)]);
    }
}
