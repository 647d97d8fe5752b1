//! What the master takes, the mirror can take: nothing has to be taken back.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use moorline_shared::entry::{MAX_ENTRIES, MAX_INSTANCE_BYTES, Value};
use moorline_shared::link::Moment;
use moorline_shared::link::body::{Item, Mirrored};
use moorline_shared::{EntryPath, InstanceId, Revision};
use proptest::prelude::*;

use super::super::pending::{Begun, Mark, Need, NoRoom, Pending};
use crate::mirror::{Batch, Mirror};

const NOW: Moment = Moment(1_000);
/// The size that values have multiples of, so that few of them fill an instance.
const PIECE: usize = MAX_INSTANCE_BYTES / 8;

fn path(n: usize) -> EntryPath {
    format!("p{n}").parse().unwrap()
}

fn item(n: usize, bytes: Option<usize>) -> Item {
    let entry = bytes.map(|bytes| Mirrored {
        revision: Revision::new(1, 1),
        content_type: "text/plain".into(),
        valid_for_ms: None,
        value: Value::from(Bytes::from(vec![b'x'; bytes])),
    });
    Item { path: path(n), entry }
}

/// A mirror that follows a master, batch by batch.
#[derive(Default)]
struct Follower {
    mirror: Mirror,
    n: u64,
}

impl Follower {
    fn of(sizes: &BTreeMap<usize, usize>) -> Self {
        let mut follower = Self::default();
        follower.take(
            None,
            sizes.iter().map(|(n, bytes)| item(*n, Some(*bytes))).collect(),
        );
        follower
    }

    fn take(&mut self, from: Option<u64>, items: Vec<Item>) {
        self.n += 1;
        let batch = Batch {
            from: from.map(|n| Revision::new(1, n)),
            to: Revision::new(1, self.n),
            items,
            secrets: Default::default(),
        };
        self.mirror
            .apply(batch, NOW)
            .unwrap_or_else(|error| panic!("the mirror refused what the master has: {error}"));
    }

    fn change(&mut self, items: Vec<Item>) {
        self.take(Some(self.n), items);
    }
}

/// How many entries besides those that are changed there are: mostly so many that one or two more fit.
fn crowd() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), MAX_ENTRIES - 6..=MAX_ENTRIES - 2]
}

#[derive(Clone, Debug)]
enum Wanted {
    Put(usize, usize),
    Append(usize, usize),
    Delete(usize),
}

impl Wanted {
    fn need(&self) -> Need {
        match self {
            Self::Put(n, bytes) => Need::Whole(path(*n), *bytes),
            Self::Append(n, bytes) => Need::More(path(*n), *bytes),
            Self::Delete(_) => Need::Nothing,
        }
    }

    fn make(&self, sizes: &mut BTreeMap<usize, usize>) -> Item {
        match self {
            Self::Put(n, bytes) => drop(sizes.insert(*n, *bytes)),
            Self::Append(n, bytes) => *sizes.entry(*n).or_default() += bytes,
            Self::Delete(n) => drop(sizes.remove(n)),
        }
        let (Self::Put(n, _) | Self::Append(n, _) | Self::Delete(n)) = self;
        item(*n, sizes.get(n).copied())
    }
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let size = (0..=2_usize).prop_map(|pieces| pieces * PIECE);
    prop_oneof![
        3 => (0..6_usize, size.clone()).prop_map(|(n, bytes)| Wanted::Put(n, bytes)),
        3 => (0..6_usize, size).prop_map(|(n, bytes)| Wanted::Append(n, bytes)),
        1 => (0..6_usize).prop_map(Wanted::Delete),
    ]
}

fn mark(n: usize) -> Mark {
    Mark {
        key: format!("k{n}").parse().unwrap(),
        by: InstanceId::from_bytes([1; 16]),
        method: "PUT".to_owned(),
        target: "/v1/instances/x/data/p".to_owned(),
    }
}

proptest! {
    /// Whichever of the changes that were let through are made, in whatever order and in whatever batches, there is room.
    /// Of those that were asked for under one key one is made at most.
    #[test]
    fn what_was_let_through_fits(
        crowd in crowd(),
        all in prop::collection::vec(wanted(), 1..12),
        keys in 1..=12_usize,
        order in any::<prop::sample::Index>(),
        kept in any::<u16>(),
        together in any::<bool>(),
    ) {
        let mut sizes: BTreeMap<usize, usize> = (100..100 + crowd).map(|n| (n, 0)).collect();
        sizes.insert(0, PIECE);
        let mut follower = Follower::of(&sizes);
        let mut pending = Pending::default();
        let mut through: Vec<_> = all.iter().enumerate().filter(|(n, wanted)| {
            pending.begin(mark(*n % keys), wanted.need(), &follower.mirror, NOW).is_ok()
        }).collect();
        let mut made = BTreeSet::new();
        through.retain(|(n, _)| kept >> n & 1 == 0 && made.insert(n % keys));
        let turn = order.index(through.len().max(1));
        through.rotate_left(turn);
        let made: Vec<_> = through.iter().map(|(_, wanted)| wanted.make(&mut sizes)).collect();
        if together {
            follower.change(made);
        } else {
            for item in made {
                follower.change(vec![item]);
            }
        }
    }

    /// One change alone is let through exactly if it fits.
    #[test]
    fn one_alone_is_let_through_if_it_fits(crowd in crowd(), before in prop::collection::btree_map(0..6_usize, (0..=2_usize).prop_map(|n| n * PIECE), 0..4), wanted in wanted()) {
        let mut sizes = before;
        sizes.extend((100..100 + crowd).map(|n| (n, 0)));
        prop_assume!(sizes.len() <= MAX_ENTRIES);
        let follower = Follower::of(&sizes);
        let begun = Pending::default().begin(mark(0), wanted.need(), &follower.mirror, NOW);
        let shrinks = matches!(wanted, Wanted::Put(n, bytes) if sizes.get(&n).is_some_and(|before| bytes <= *before));
        wanted.make(&mut sizes);
        let fits = sizes.len() <= MAX_ENTRIES && sizes.values().sum::<usize>() <= MAX_INSTANCE_BYTES;
        prop_assert!(begun.is_ok() == fits || shrinks, "{:?}", begun);
    }

    /// A mirror is a part of what the master holds, whose bounds are no wider: it never refuses for want of room.
    #[test]
    fn a_part_of_a_bounded_whole_fits(
        crowd in crowd(),
        steps in prop::collection::vec((wanted(), any::<u8>(), 0..4_u8), 1..24),
    ) {
        let mut master: BTreeMap<usize, usize> = (100..100 + crowd).map(|n| (n, 0)).collect();
        let mut follower = Follower::of(&master);
        let (mut shown, mut batch) = (u8::MAX, BTreeMap::new());
        for (wanted, visible, send) in steps {
            let mut after = master.clone();
            wanted.make(&mut after);
            if after.len() <= MAX_ENTRIES && after.values().sum::<usize>() <= MAX_INSTANCE_BYTES {
                master = after;
            }
            // What the instance may read changes, too; what is sent is merged into batches.
            shown = if send == 1 { visible } else { shown };
            for n in 0..6 {
                batch.insert(n, item(n, master.get(&n).copied().filter(|_| shown >> n & 1 == 1)));
            }
            match send {
                0 => {}
                3 => {
                    let present = master.iter().filter(|(n, _)| **n >= 100 || shown >> **n & 1 == 1);
                    let all = present.map(|(n, bytes)| item(*n, Some(*bytes))).collect();
                    batch.clear();
                    follower.take(None, all);
                }
                _ => follower.change(std::mem::take(&mut batch).into_values().collect()),
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_said_precisely() {
    let full: BTreeMap<usize, usize> = (0..MAX_ENTRIES).map(|n| (n, 0)).collect();
    let follower = Follower::of(&full);
    let mut pending = Pending::default();
    let one_more = Need::Whole(path(MAX_ENTRIES), 1);
    let refused = pending.begin(mark(0), one_more, &follower.mirror, NOW);
    assert_eq!(refused, Err(NoRoom::Entries(MAX_ENTRIES + 1)));
    let long = pending.begin(
        mark(1),
        Need::Whole(path(0), MAX_INSTANCE_BYTES + 1),
        &follower.mirror,
        NOW,
    );
    assert_eq!(long, Err(NoRoom::Bytes(MAX_INSTANCE_BYTES + 1)));
    assert!(
        pending
            .begin(mark(2), Need::Nothing, &follower.mirror, NOW)
            .is_ok()
    );
    for n in 3..300 {
        let begun = pending.begin(mark(n), Need::Nothing, &follower.mirror, NOW);
        assert_eq!(begun.is_err(), n >= 258, "{n}: {begun:?}");
    }
}

#[test]
fn a_program_that_asks_for_more_under_a_key_that_is_open_has_room_for_it_set_aside() {
    let follower = Follower::of(&BTreeMap::from([(0, 0)]));
    let mut pending = Pending::default();
    let mut begin = |key, need| pending.begin(mark(key), need, &follower.mirror, NOW);
    let whole = |n, pieces| Need::Whole(path(n), pieces * PIECE);
    for need in [whole(0, 1), whole(0, 6), whole(0, 2), whole(0, 6)] {
        assert!(begin(0, need).is_ok());
    }
    assert_eq!(begin(1, whole(1, 3)), Err(NoRoom::Bytes(9 * PIECE)));
    assert_eq!(begin(0, whole(0, 9)), Err(NoRoom::Bytes(9 * PIECE)));
    // Asked for again it needs no more, though it is added to what is there.
    let more = || Need::More(path(1), PIECE);
    assert!(begin(1, more()).is_ok() && begin(1, more()).is_ok());
    assert!(begin(2, more()).is_ok());
    assert_eq!(begin(3, more()), Err(NoRoom::Bytes(9 * PIECE)));
    // Under one key, and of another entry.
    assert_eq!(begin(1, whole(2, 1)), Err(NoRoom::Bytes(9 * PIECE)));
}

#[test]
fn what_an_earlier_agent_asked_for_is_asked_for_again_whatever_room_there_is_and_has_it_set_aside() {
    let follower = Follower::of(&BTreeMap::from([(0, 4 * PIECE)]));
    let mut pending = Pending::default();
    pending.restore([mark(0)], NOW);
    let mut begin = |key, pieces| {
        let need = Need::More(path(key), pieces * PIECE);
        pending.begin(mark(key), need, &follower.mirror, NOW)
    };
    assert_eq!(begin(1, 3), Ok(Begun::First));
    assert_eq!(begin(0, 4), Ok(Begun::Again), "it may be what is there");
    assert_eq!(begin(2, 0), Err(NoRoom::Bytes(11 * PIECE)));
}
