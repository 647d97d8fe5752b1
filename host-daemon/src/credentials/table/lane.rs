//! All slots of one item: when each is due, and how many are being fetched.

use std::collections::BTreeSet;

use moorline_shared::InstanceId;
use moorline_shared::link::Moment;

/// What waits for its time, and what is being fetched. One that hangs keeps out others of its lane only.
#[derive(Debug)]
pub(super) struct Lane {
    most: u16,
    under_way: u16,
    due: BTreeSet<(Moment, InstanceId)>,
}

impl Lane {
    /// Of which `most` are fetched at once.
    pub(super) const fn new(most: u16) -> Self {
        Self {
            most,
            under_way: 0,
            due: BTreeSet::new(),
        }
    }

    pub(super) fn plan(&mut self, at: Moment, id: InstanceId) {
        self.due.insert((at, id));
    }

    pub(super) fn unplan(&mut self, at: Moment, id: InstanceId) {
        self.due.remove(&(at, id));
    }

    /// Begins the fetch that is due the longest, if there is one and there is room for it.
    pub(super) fn next(&mut self, now: Moment) -> Option<InstanceId> {
        let first = *self.due.first().filter(|(at, _)| *at <= now)?;
        if self.under_way >= self.most {
            return None;
        }
        self.due.remove(&first);
        self.under_way += 1;
        Some(first.1)
    }

    /// A fetch is over.
    pub(super) fn end(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// When the next one can be begun, if there is room for one.
    pub(super) fn first(&self) -> Option<Moment> {
        let room = self.under_way < self.most;
        self.due.first().filter(|_| room).map(|(at, _)| *at)
    }

    #[cfg(test)]
    pub(super) const fn under_way(&self) -> u16 {
        self.under_way
    }
}
