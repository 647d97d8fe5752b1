//! The views of other instances that the feed is to bring, and which of them it knows of.

use std::collections::{BTreeMap, BTreeSet};

use moorline_shared::InstanceId;
use moorline_shared::api::feed::{SetInterests, ViewId};

/// The most views that are asked for at once.
const AT_ONCE: usize = 256;

/// What a shard wants changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterestChange {
    /// To be brought.
    pub add: Vec<ViewId>,
    /// No longer.
    pub remove: Vec<ViewId>,
}

/// The views that shards want.
///
/// A view counts as arrived once it came whole. Only those that have are named when a feed is opened with a cursor,
/// because from there on it brings what changed; all others are added afterwards, which brings them whole.
#[derive(Debug, Default)]
pub struct Interests {
    wanted: BTreeMap<ViewId, Stage>,
    /// What the feed still brings and nobody wants.
    unwanted: BTreeSet<ViewId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The feed has not been asked.
    New,
    /// Nor has it now, and it is to be asked for this view alone: it was refused together with others.
    Single,
    /// It has, in this session.
    Asked,
    Arrived,
}

impl Interests {
    /// A shard wants other views than before.
    pub fn change(&mut self, change: InterestChange) {
        for view in change.add {
            // One that is still brought has to come anew: the shard has let go of what it had.
            self.unwanted.remove(&view);
            self.wanted.insert(view, Stage::New);
        }
        for view in change.remove {
            let stage = self.wanted.remove(&view);
            if matches!(stage, Some(Stage::Asked | Stage::Arrived)) {
                self.unwanted.insert(view);
            }
        }
    }

    /// A feed is opened: what it is told at once.
    pub fn open(&mut self) -> Vec<ViewId> {
        self.unwanted.clear();
        for stage in self.wanted.values_mut().filter(|stage| **stage == Stage::Asked) {
            *stage = Stage::New;
        }
        let arrived = self.wanted.iter().filter(|(_, stage)| **stage == Stage::Arrived);
        arrived.map(|(view, _)| *view).collect()
    }

    /// What the open feed has to be told now, if anything.
    pub fn next(&mut self, session: u64) -> Option<SetInterests> {
        let mut add = self.ask(Stage::New, AT_ONCE);
        if add.is_empty() {
            add = self.ask(Stage::Single, 1);
        }
        let remove: Vec<_> = std::mem::take(&mut self.unwanted).into_iter().collect();
        (!add.is_empty() || !remove.is_empty()).then_some(SetInterests { session, add, remove })
    }

    fn ask(&mut self, stage: Stage, most: usize) -> Vec<ViewId> {
        let waiting = self.wanted.iter_mut().filter(|(_, at)| **at == stage);
        let asked = waiting.take(most).map(|(view, at)| {
            *at = Stage::Asked;
            *view
        });
        asked.collect()
    }

    /// Whether there are views that the feed has not been asked for.
    pub fn has_more(&self) -> bool {
        let waits = |stage: &Stage| matches!(stage, Stage::New | Stage::Single);
        self.wanted.values().any(waits)
    }

    /// Whether the feed was asked for the view and has not brought it.
    pub fn is_asked(&self, view: &ViewId) -> bool {
        self.wanted.get(view) == Some(&Stage::Asked)
    }

    fn back_to(&mut self, stage: Stage, views: &[ViewId]) {
        for view in views {
            if let Some(at) = self.wanted.get_mut(view).filter(|at| **at == Stage::Asked) {
                *at = stage;
            }
        }
    }

    /// Nobody knows whether the control plane will bring these: it is asked again.
    pub fn unanswered(&mut self, views: &[ViewId]) {
        self.back_to(Stage::New, views);
    }

    /// The control plane will not bring one of these.
    pub fn ask_singly(&mut self, views: &[ViewId]) {
        self.back_to(Stage::Single, views);
    }

    /// The view came whole.
    pub fn arrived(&mut self, view: &ViewId) {
        if let Some(stage) = self.wanted.get_mut(view).filter(|stage| **stage == Stage::Asked) {
            *stage = Stage::Arrived;
        }
    }

    /// The instance is no longer this host's, and reads nothing here.
    pub fn reader_gone(&mut self, reader: &InstanceId) {
        self.wanted.retain(|view, _| view.reader != *reader);
    }

    /// The control plane will not bring this one.
    pub fn refused(&mut self, view: &ViewId) {
        self.wanted.remove(view);
    }
}

#[cfg(test)]
mod tests {
    use super::{InterestChange, Interests};
    use moorline_shared::InstanceId;
    use moorline_shared::api::feed::ViewId;

    fn view(reader: u8, instance: u8) -> ViewId {
        ViewId {
            reader: InstanceId::from_bytes([reader; 16]),
            instance: InstanceId::from_bytes([instance; 16]),
        }
    }

    fn add(view: ViewId) -> InterestChange {
        InterestChange {
            add: vec![view],
            remove: vec![],
        }
    }

    fn remove(view: ViewId) -> InterestChange {
        InterestChange {
            add: vec![],
            remove: vec![view],
        }
    }

    #[test]
    fn only_what_has_arrived_is_left_to_the_cursor() {
        let mut interests = Interests::default();
        interests.change(add(view(1, 2)));
        interests.change(add(view(1, 3)));
        assert_eq!(interests.open(), []);
        assert_eq!(interests.next(1).unwrap().add, [view(1, 2), view(1, 3)]);
        assert_eq!(interests.next(1), None);
        interests.arrived(&view(1, 2));
        assert_eq!(interests.open(), [view(1, 2)]);
        assert_eq!(interests.next(2).unwrap().add, [view(1, 3)]);
    }

    #[test]
    fn what_is_let_go_and_wanted_again_comes_anew() {
        let mut interests = Interests::default();
        interests.change(add(view(1, 2)));
        interests.next(1);
        interests.arrived(&view(1, 2));
        interests.change(remove(view(1, 2)));
        interests.change(add(view(1, 2)));
        let set = interests.next(1).unwrap();
        assert_eq!((set.add, set.remove), (vec![view(1, 2)], vec![]));
        interests.change(remove(view(1, 2)));
        assert_eq!(interests.next(1).unwrap().remove, [view(1, 2)]);
    }

    #[test]
    fn what_was_refused_together_is_asked_for_one_by_one() {
        let mut interests = Interests::default();
        let views = [2, 3, 4].map(|instance| view(1, instance));
        for view in views {
            interests.change(add(view));
        }
        assert_eq!(interests.next(1).unwrap().add, views);
        interests.unanswered(&views);
        assert_eq!(interests.next(1).unwrap().add, views);
        interests.ask_singly(&views);
        interests.change(add(view(1, 5)));
        assert_eq!(interests.next(1).unwrap().add, [view(1, 5)]);
        for view in views {
            assert_eq!(interests.next(1).unwrap().add, [view]);
        }
        interests.refused(&views[0]);
        assert_eq!(interests.next(1), None);
        interests.open();
        assert_eq!(interests.next(2).unwrap().add, [views[1], views[2], view(1, 5)]);
    }

    #[test]
    fn many_are_asked_for_in_several_calls() {
        let mut interests = Interests::default();
        for instance in 0..=255 {
            interests.change(add(view(1, instance)));
            interests.change(add(view(2, instance)));
        }
        for _ in 0..2 {
            assert_eq!(interests.next(1).unwrap().add.len(), super::AT_ONCE);
        }
        assert_eq!(interests.next(1), None);
    }

    #[test]
    fn what_was_never_asked_for_needs_no_removal() {
        let mut interests = Interests::default();
        interests.change(add(view(1, 2)));
        interests.change(remove(view(1, 2)));
        assert_eq!(interests.next(1), None);
        interests.change(add(view(1, 2)));
        interests.reader_gone(&view(1, 2).reader);
        assert_eq!(interests.next(1), None);
    }
}
