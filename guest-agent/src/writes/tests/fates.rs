//! Changes whose requests and answers are lost, late, doubled and turned away, and agents that are killed meanwhile: a mark
//! goes only when the fate of its change is sealed, and goes in the end.

use std::collections::{BTreeMap, BTreeSet};

use moorline_shared::InstanceId;
use moorline_shared::id::IdempotencyKey;
use moorline_shared::link::Moment;
use proptest::prelude::*;

use super::super::pending::{End, Left, Mark, Need, Pending, TOO_LATE_MS, Word};
use crate::mirror::Mirror;

const KEYS: usize = 3;

#[derive(Clone, Debug)]
enum Event {
    /// A program asks.
    Send(usize),
    /// The oldest request on its way comes to the master.
    Deliver(usize),
    /// It is turned away there, and the program that waits is told.
    TurnAway(usize),
    /// The program is told by the master's record, if there is one.
    Tell(usize),
    /// The answer is lost, and the program asks again.
    Resend(usize),
    /// The answer is lost, and the program goes.
    Lose(usize),
    /// The agent asks the master.
    Ask,
    /// The answer to that comes.
    Hear,
    Wait(u64),
    /// The agent is killed and begins anew.
    Crash,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let key = 0..KEYS;
    let event = prop_oneof![
        4 => key.clone().prop_map(Event::Send),
        3 => key.clone().prop_map(Event::Deliver),
        2 => key.clone().prop_map(Event::TurnAway),
        3 => key.clone().prop_map(Event::Tell),
        2 => key.clone().prop_map(Event::Resend),
        3 => key.prop_map(Event::Lose),
        3 => Just(Event::Ask),
        3 => Just(Event::Hear),
        3 => prop_oneof![0..5_000_u64, TOO_LATE_MS / 2..TOO_LATE_MS * 2].prop_map(Event::Wait),
        1 => Just(Event::Crash),
    ];
    prop::collection::vec(event, 200..300)
}

/// The agent's marks, the requests on their way and the master's records.
#[derive(Default)]
struct World {
    now: Moment,
    pending: Pending,
    /// What is on the disk.
    marks: BTreeSet<usize>,
    /// When the requests of each key were sent that may come to the master yet.
    on_their_way: BTreeMap<usize, Vec<Moment>>,
    /// How many programs wait for each.
    waiting: BTreeMap<usize, usize>,
    records: BTreeSet<usize>,
    /// What the master said, to whom, and when it was asked.
    heard: Vec<(usize, Word, Moment)>,
    closed: usize,
}

fn key(n: usize) -> IdempotencyKey {
    format!("k{n}").parse().unwrap()
}

fn mark(n: usize) -> Mark {
    Mark {
        key: key(n),
        by: InstanceId::from_bytes([1; 16]),
        method: "PUT".to_owned(),
        target: "/v1/instances/x/data/p".to_owned(),
    }
}

impl World {
    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Send(n) => {
                let begun = self
                    .pending
                    .begin(mark(n), Need::Nothing, &Mirror::default(), self.now);
                begun.unwrap();
                self.marks.insert(n);
                *self.waiting.entry(n).or_default() += 1;
                self.send(n);
            }
            Event::Deliver(n) => {
                if self.oldest(n).is_some() {
                    self.records.insert(n);
                }
            }
            Event::TurnAway(n) => {
                // The program that waits is told of the request that it sent: of the only one there is.
                if self.waiting.get(&n) == Some(&1)
                    && self.on_their_way.get(&n).is_some_and(|sent| sent.len() == 1)
                {
                    self.oldest(n);
                    self.end(n, End::TurnedAway);
                }
            }
            Event::Tell(n) => {
                if self.records.contains(&n) {
                    self.end(n, End::Recorded);
                }
            }
            Event::Resend(n) => {
                if self.waiting.get(&n).is_some_and(|count| *count > 0) {
                    self.pending.lost(&key(n), self.now);
                    self.send(n);
                }
            }
            Event::Lose(n) => self.end(n, End::Lost),
            Event::Ask => self.ask(),
            Event::Hear => self.hear(),
            Event::Wait(ms) => self.now.0 += ms,
            Event::Crash => self.crash(),
        }
    }

    fn send(&mut self, n: usize) {
        self.on_their_way.entry(n).or_default().push(self.now);
    }

    /// Takes the oldest request of a key that the master would still take.
    fn oldest(&mut self, n: usize) -> Option<Moment> {
        let now = self.now;
        let sent = self.on_their_way.entry(n).or_default();
        sent.retain(|at| now.since(*at) < TOO_LATE_MS);
        (!sent.is_empty()).then(|| sent.remove(0))
    }

    fn end(&mut self, n: usize, end: End) {
        let waiting = self.waiting.entry(n).or_default();
        if *waiting > 0 {
            *waiting -= 1;
            let left = self.pending.ended(&key(n), end, self.now);
            self.settle(n, left);
        }
    }

    fn settle(&mut self, n: usize, left: Left) {
        if left == Left::Closed {
            self.closed += usize::from(self.marks.remove(&n));
        }
    }

    fn ask(&mut self) {
        if let Some(mark) = self.pending.question(self.now) {
            let n = (0..KEYS).find(|n| key(*n) == mark.key).unwrap();
            let word = if self.records.contains(&n) {
                Word::Recorded
            } else {
                Word::Nothing
            };
            self.heard.push((n, word, self.now));
        }
    }

    fn hear(&mut self) {
        if let Some((n, word, asked)) = self.heard.pop() {
            let left = self.pending.answered(&key(n), word, asked);
            self.settle(n, left);
        }
    }

    fn crash(&mut self) {
        self.pending = Pending::default();
        self.pending
            .restore(self.marks.iter().map(|n| mark(*n)), self.now);
        self.waiting.clear();
        self.heard.clear();
    }

    /// A key without a mark has a record, or will never have one.
    fn check(&mut self) -> Result<(), TestCaseError> {
        let open: BTreeSet<_> = self.pending.iter().map(|(mark, _)| mark.key.clone()).collect();
        let marked: BTreeSet<_> = self.marks.iter().map(|n| key(*n)).collect();
        prop_assert_eq!(&open, &marked, "what is on the disk and what is open differ");
        for n in (0..KEYS).filter(|n| !self.marks.contains(n) && !self.records.contains(n)) {
            let now = self.now;
            let alive = self.on_their_way.get(&n).into_iter().flatten();
            let alive = alive.filter(|at| now.since(**at) < TOO_LATE_MS).count();
            prop_assert_eq!(alive, 0, "{} was given up, and may be done yet", n);
        }
        Ok(())
    }

    /// Everybody goes home, and the master answers.
    fn wind_up(&mut self) {
        for n in 0..KEYS {
            while self.waiting.get(&n).is_some_and(|count| *count > 0) {
                self.end(n, End::Lost);
            }
        }
        self.now.0 += TOO_LATE_MS;
        while let Some(next) = self.pending.next_question() {
            self.now = self.now.max(next);
            self.ask();
            self.hear();
        }
    }
}

proptest! {
    #[test]
    fn a_mark_goes_when_the_fate_of_its_change_is_sealed_and_not_before(events in events()) {
        let mut world = World::default();
        for event in &events {
            world.happen(event);
            world.check()?;
        }
        world.wind_up();
        world.check()?;
        prop_assert!(world.marks.is_empty());
        prop_assert!(world.closed > 0, "nothing was ever settled, so that nothing was tried");
    }
}

#[test]
fn a_change_in_doubt_is_asked_about_ever_more_seldom() {
    let mut pending = Pending::default();
    pending.restore([mark(0)], Moment(0));
    let mut asked = Vec::new();
    while asked.len() < 8 {
        let now = pending.next_question().unwrap();
        assert!(pending.question(now).is_some() && pending.question(now).is_none());
        asked.push(now.0 / 1_000);
    }
    assert_eq!(asked, [0, 1, 3, 7, 15, 31, 63, 123]);
}

#[test]
fn what_another_instance_asked_for_is_let_go() {
    let mut pending = Pending::default();
    pending.restore([mark(0), mark(1)], Moment(0));
    assert_eq!(pending.keep_own(mark(0).by), []);
    let others = pending.keep_own(InstanceId::from_bytes([2; 16]));
    assert_eq!((others.len(), pending.next_question()), (2, None));
}
