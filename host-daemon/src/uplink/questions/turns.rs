//! Whose question is asked next: guests take turns, and none holds so many places that another finds none.

use std::collections::{HashMap, VecDeque};

use moorline_shared::InstanceId;

use crate::link::Ask;

/// A guest may hold one place for so many that are free.
const SHARE: usize = 16;

/// The questions that wait for a place, and who holds the places.
///
/// A guest gets another place only while it holds less than a [`SHARE`] of those that are free. So the more are taken,
/// the less one more guest may take: it takes dozens that ask for all they can until who comes next finds no place, and
/// the first place that is left then goes to who has none.
#[derive(Debug)]
pub(super) struct Turns {
    waiting: HashMap<InstanceId, VecDeque<Ask>>,
    /// Those that wait, the one whose turn is next first.
    order: VecDeque<InstanceId>,
    held: HashMap<InstanceId, usize>,
    free: usize,
}

impl Turns {
    /// Nobody waits.
    pub(super) fn new(places: usize) -> Self {
        Self {
            waiting: HashMap::new(),
            order: VecDeque::new(),
            held: HashMap::new(),
            free: places,
        }
    }

    /// A question waits for its turn, behind those of the same guest. A guest's bound on questions bounds how many.
    pub(super) fn wait(&mut self, ask: Ask) {
        let waiting = self.waiting.entry(ask.reader).or_default();
        if waiting.is_empty() {
            self.order.push_back(ask.reader);
        }
        waiting.push_back(ask);
    }

    /// Gives a place to the question whose turn it is; `None` if nobody may be given one now.
    pub(super) fn next(&mut self) -> Option<Ask> {
        if self.free == 0 {
            return None;
        }
        let may = |reader: &InstanceId| self.held.get(reader).copied().unwrap_or(0) * SHARE < self.free;
        let at = self.order.iter().position(may)?;
        let reader = self.order.remove(at)?;
        let waiting = self.waiting.get_mut(&reader)?;
        let ask = waiting.pop_front()?;
        if waiting.is_empty() {
            self.waiting.remove(&reader);
        } else {
            self.order.push_back(reader);
        }
        *self.held.entry(reader).or_default() += 1;
        self.free -= 1;
        Some(ask)
    }

    /// A question of the guest's was answered, or never will be.
    pub(super) fn ended(&mut self, reader: InstanceId) {
        self.free += 1;
        if let Some(held) = self.held.get_mut(&reader) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&reader);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Turns;
    use crate::link::tests::id;
    use crate::link::{Ask, MissKey, Question};

    /// Question `n` of a guest.
    fn ask(reader: u8, n: usize) -> Ask {
        let key = MissKey {
            reader: id(reader),
            instance: id(99),
            path: n.to_string().parse().unwrap(),
        };
        Ask {
            shard: n,
            reader: id(reader),
            question: Question::Entry(key),
        }
    }

    fn given(turns: &mut Turns) -> Vec<(u8, usize)> {
        let next = std::iter::from_fn(|| turns.next());
        next.map(|ask| (ask.reader.bytes()[0], ask.shard)).collect()
    }

    #[test]
    fn guests_take_turns_and_each_ones_questions_keep_their_order() {
        let mut turns = Turns::new(100);
        for n in 0..3 {
            turns.wait(ask(1, n));
        }
        turns.wait(ask(2, 0));
        assert_eq!(given(&mut turns), [(1, 0), (2, 0), (1, 1), (1, 2)]);
    }

    #[test]
    fn however_many_ask_for_all_they_can_who_comes_next_has_a_place() {
        let mut turns = Turns::new(256);
        for guest in 1..=50 {
            for n in 0..48 {
                turns.wait(ask(guest, n));
            }
            let places = given(&mut turns);
            assert_eq!(
                places.first(),
                Some(&(guest, 0)),
                "guest {guest} has to wait for others"
            );
        }
    }

    #[test]
    fn a_place_that_is_left_goes_to_who_has_none() {
        let mut turns = Turns::new(3);
        for (guest, n) in [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0)] {
            turns.wait(ask(guest, n));
        }
        assert_eq!(given(&mut turns), [(1, 0), (2, 0), (3, 0)]);
        turns.ended(id(2));
        assert_eq!(given(&mut turns), [(2, 1)]);
        for guest in [1, 2, 3] {
            turns.ended(id(guest));
        }
        assert_eq!(given(&mut turns), [(1, 1)]);
        turns.ended(id(1));
        assert_eq!((turns.free, turns.held.len(), turns.waiting.len()), (3, 0, 0));
    }
}
