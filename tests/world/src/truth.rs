//! What the master copy was at every revision, and what each reader might see of it then.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use moorline_control::http::feed::views::Views;
use moorline_control::identity::master::MasterKey;
use moorline_control::settings::AccessControl;
use moorline_control::store::Store;
use moorline_shared::api::feed::ViewId;
use moorline_shared::{EntryPath, Revision};

use crate::clock::Clock;
use crate::plane::{Plane, at_once};
use crate::state::{Held, State, of_view};

/// Every state that the master copy had, in the order of time.
#[derive(Debug)]
pub struct Truth {
    master: Arc<MasterKey>,
    past: Vec<Past>,
    known: RefCell<HashMap<(ViewId, usize), Rc<State>>>,
}

#[derive(Debug)]
struct Past {
    revision: Revision,
    ms: u64,
    store: Store,
}

impl Truth {
    /// Nothing is known yet.
    pub fn new(master: Arc<MasterKey>) -> Self {
        Self {
            master,
            past: Vec::new(),
            known: RefCell::default(),
        }
    }

    /// Takes in what was committed since it was asked last.
    pub fn follow(&mut self, plane: &Plane, clock: Clock) {
        let head = plane.head();
        let first = match self.past.last() {
            Some(last) if last.revision.epoch == head.epoch => last.revision.n + 1,
            _ => head.n,
        };
        for n in first..=head.n {
            let revision = Revision::new(head.epoch, n);
            let memory = plane.memory().fork(n, head.epoch);
            self.past.push(Past {
                revision,
                ms: clock.ms(),
                store: memory.expect("nothing is compacted here").into(),
            });
        }
    }

    /// The first revision of an epoch that is known.
    pub fn oldest(&self, epoch: u64) -> u64 {
        let first = self.past.iter().find(|past| past.revision.epoch == epoch);
        first.map_or(0, |past| past.revision.n)
    }

    /// Whether no backup was restored that was made before a revision.
    pub fn survives(&self, revision: Revision) -> bool {
        let mut later = self
            .past
            .iter()
            .filter(|past| past.revision.epoch > revision.epoch);
        later.all(|past| self.oldest(past.revision.epoch) >= revision.n)
    }

    fn place(&self, revision: Revision) -> Option<usize> {
        self.past
            .partition_point(|past| past.revision <= revision)
            .checked_sub(1)
    }

    fn at(&self, view: ViewId, place: usize) -> Rc<State> {
        let mut known = self.known.borrow_mut();
        let known = known.entry((view, place)).or_insert_with(|| {
            let past = &self.past[place];
            let views = Views::new(past.store.clone(), AccessControl::Enforced, self.master.clone());
            let view = at_once(views.read(past.revision.n, view));
            Rc::new(of_view(&view.expect("a store in memory can be read")))
        });
        known.clone()
    }

    /// What a reader might see at a revision; nothing if there was none in its epoch.
    pub fn state(&self, view: ViewId, revision: Revision) -> Option<Rc<State>> {
        let place = self.place(revision)?;
        let same_epoch = self.past[place].revision.epoch == revision.epoch;
        same_epoch.then(|| self.at(view, place))
    }

    /// What a reader might see now.
    pub fn present(&self, view: ViewId) -> Rc<State> {
        self.at(view, self.past.len() - 1)
    }

    /// Where the master copy stood at a time.
    fn place_at(&self, ms: u64) -> usize {
        self.past.partition_point(|past| past.ms <= ms).saturating_sub(1)
    }

    /// Whether `revision` was the present one at `ms`, or is later.
    pub fn was_later(&self, revision: Revision, ms: u64) -> bool {
        self.past
            .get(self.place_at(ms))
            .is_none_or(|past| revision >= past.revision)
    }

    /// Whether a reader might see just this at some moment since `ms`.
    pub fn was_so_since(&self, view: ViewId, ms: u64, is_it: impl Fn(&State) -> bool) -> bool {
        let since = self.place_at(ms);
        (since..self.past.len())
            .rev()
            .any(|place| is_it(&self.at(view, place)))
    }

    /// Whether a reader might see this entry at some moment since `ms`.
    pub fn was_shown(&self, view: ViewId, path: &EntryPath, held: &Held, ms: u64) -> bool {
        self.was_so_since(view, ms, |state| state.get(path) == Some(held))
    }
}
