//! What was asked of the control plane because no view had it: once however many ask, and its no is remembered.

use std::collections::HashMap;

use moorline_shared::Revision;
use moorline_shared::api::feed::ViewId;
use moorline_shared::link::Moment;

use super::ask::{Asker, MissKey, Refusal};

/// The misses of a shard's guests. A guest adds to it only by its budget of requests to the control plane, and only
/// what it added is found for it, so none can use up another's room.
#[derive(Debug)]
pub(super) struct Misses {
    table: HashMap<MissKey, Miss>,
    refusal_ms: u64,
}

#[derive(Debug)]
enum Miss {
    Asking(Vec<Asker>),
    Refused { refusal: Refusal, until: Moment },
}

/// What is known of a miss.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known<'a> {
    /// Nothing: ask, and say so with [`Misses::ask`].
    Nothing,
    /// It is being asked; whoever joined hears the answer.
    Asking,
    /// The control plane said no a moment ago.
    Refused(&'a Refusal),
}

impl Misses {
    /// Nothing was asked; a no is remembered for so many milliseconds.
    pub(super) fn new(refusal_ms: u32) -> Self {
        Self {
            table: HashMap::new(),
            refusal_ms: u64::from(refusal_ms),
        }
    }

    /// What is known at `now`.
    pub(super) fn look(&self, key: &MissKey, now: Moment) -> Known<'_> {
        match self.table.get(key) {
            Some(Miss::Asking(_)) => Known::Asking,
            Some(Miss::Refused { refusal, until }) if now < *until => Known::Refused(refusal),
            _ => Known::Nothing,
        }
    }

    /// The latest state of which the control plane said no a moment ago: a view from before may show the entry still.
    pub(super) fn refused_as_of(&self, view: &ViewId, path: &str, now: Moment) -> Option<Revision> {
        // Most of the time nothing is remembered, and a read costs no look-up, for which the path would be copied.
        if self.table.is_empty() {
            return None;
        }
        let key = MissKey {
            reader: view.reader,
            instance: view.instance,
            path: path.parse().ok()?,
        };
        match self.look(&key, now) {
            Known::Refused(refusal) => refusal.as_of,
            Known::Nothing | Known::Asking => None,
        }
    }

    /// The asker waits for the answer, with those that wait already. Those that can't be waiting any more go: their
    /// session has ended, or their stream is used again. So as many are kept as a session has streams.
    pub(super) fn ask(&mut self, key: MissKey, asker: Asker) {
        match self.table.get_mut(&key) {
            Some(Miss::Asking(askers)) => {
                askers.retain(|other| other.session == asker.session && other.stream != asker.stream);
                askers.push(asker);
            }
            _ => {
                self.table.insert(key, Miss::Asking(vec![asker]));
            }
        }
    }

    /// The answer came: returns who waits for it. A refusal is remembered.
    pub(super) fn answered(&mut self, key: &MissKey, refusal: Option<&Refusal>, now: Moment) -> Vec<Asker> {
        let Some(Miss::Asking(askers)) = self.table.remove(key) else {
            return Vec::new();
        };
        if let Some(refusal) = refusal.filter(|_| self.refusal_ms > 0) {
            let refused = Miss::Refused {
                refusal: refusal.clone(),
                until: Moment(now.0 + self.refusal_ms),
            };
            self.table.insert(key.clone(), refused);
        }
        askers
    }

    /// Forgets the refusals that are old.
    pub(super) fn tidy(&mut self, now: Moment) {
        self.table
            .retain(|_, miss| !matches!(miss, Miss::Refused { until, .. } if *until <= now));
    }
}

#[cfg(test)]
mod tests {
    use super::{Known, Misses};
    use crate::link::ask::{Asker, MissKey, Refusal};
    use moorline_shared::InstanceId;
    use moorline_shared::link::body::Code;
    use moorline_shared::link::{Moment, StreamId};

    fn key(reader: u8) -> MissKey {
        MissKey {
            reader: InstanceId::from_bytes([reader; 16]),
            instance: InstanceId::from_bytes([9; 16]),
            path: "a/b".parse().unwrap(),
        }
    }

    /// Each on a stream of its own.
    fn asker(ticket: u32) -> Asker {
        Asker {
            session: 1,
            stream: StreamId(2 * ticket + 1),
            ticket: u64::from(ticket),
        }
    }

    #[test]
    fn who_asks_and_cancels_again_and_again_is_kept_once() {
        let mut misses = Misses::new(2_000);
        let again = |ticket| Asker { ticket, ..asker(1) };
        misses.ask(key(1), asker(2));
        for ticket in 0..1_000 {
            misses.ask(key(1), again(ticket));
        }
        assert_eq!(misses.answered(&key(1), None, Moment(0)), [asker(2), again(999)]);
        let later = Asker {
            session: 2,
            ..asker(2)
        };
        misses.ask(key(1), asker(1));
        misses.ask(key(1), later);
        assert_eq!(
            misses.answered(&key(1), None, Moment(0)),
            [later],
            "a session that ended still waits"
        );
    }

    #[test]
    fn many_ask_once_and_a_no_is_remembered_for_a_while() {
        let mut misses = Misses::new(2_000);
        assert_eq!(misses.look(&key(1), Moment(0)), Known::Nothing);
        misses.ask(key(1), asker(1));
        assert_eq!(misses.look(&key(1), Moment(0)), Known::Asking);
        misses.ask(key(1), asker(2));
        let no = Refusal::new(Code::NotFound, "no such entry");
        assert_eq!(
            misses.answered(&key(1), Some(&no), Moment(10)),
            [asker(1), asker(2)]
        );
        assert_eq!(misses.look(&key(1), Moment(2_009)), Known::Refused(&no));
        assert_eq!(
            misses.look(&key(2), Moment(2_009)),
            Known::Nothing,
            "another reader asks itself"
        );
        assert_eq!(misses.look(&key(1), Moment(2_010)), Known::Nothing);
        misses.tidy(Moment(2_010));
        assert!(misses.table.is_empty());
    }

    #[test]
    fn an_answer_is_not_remembered() {
        let mut misses = Misses::new(2_000);
        misses.ask(key(1), asker(1));
        assert_eq!(misses.answered(&key(1), None, Moment(0)), [asker(1)]);
        assert_eq!(misses.look(&key(1), Moment(0)), Known::Nothing);
        assert_eq!(misses.answered(&key(1), None, Moment(0)), []);
    }
}
