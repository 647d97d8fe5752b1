//! What is written is what is read, and nothing else is; and a mirror that begins with it is no more than it says.

use bytes::Bytes;
use moorline_shared::entry::Value;
use moorline_shared::link::Moment;
use moorline_shared::link::body::{Item, Mirrored};
use moorline_shared::{InstanceId, PathPrefix, Revision};
use proptest::prelude::*;

use super::{Kept, Origin, Stamp, Unreadable, VERSION};
use crate::mirror::{Batch, Freshness, Known, Lookup, Mirror, Refusal, STALE_AFTER_MS, Standing};

/// When everything here was written.
const WRITTEN: Stamp = Stamp {
    boot_id: [1; 16],
    boottime_ms: 50_000,
    calendar_ms: 1_700_000_000_000,
};

/// So long after that, in the same boot.
fn later(ms: u64) -> Stamp {
    Stamp {
        boottime_ms: WRITTEN.boottime_ms + ms,
        // Somebody set the calendar.
        calendar_ms: 0,
        ..WRITTEN
    }
}

/// So long after that by the calendar, in another boot that began 4 s ago.
fn rebooted(ms: i64) -> Stamp {
    Stamp {
        boot_id: [2; 16],
        boottime_ms: 4_000,
        calendar_ms: WRITTEN.calendar_ms.strict_add_signed(ms),
    }
}

fn origin() -> Origin {
    Origin {
        instance: InstanceId::from_bytes([7; 16]),
        incarnation: 3,
        authority: "test".to_owned(),
    }
}

fn item(path: &str, valid_for_ms: Option<u64>) -> Item {
    let entry = Mirrored {
        revision: Revision::new(1, 2),
        content_type: "text/plain".to_owned(),
        valid_for_ms,
        value: Value::from(Bytes::from_static(b"value")),
    };
    Item {
        path: path.parse().unwrap(),
        entry: Some(entry),
    }
}

fn kept(below: &str, items: Vec<Item>) -> Kept {
    Kept {
        of: origin(),
        below: vec![below.parse().unwrap()],
        revision: Revision::new(1, 9),
        age_ms: 10,
        written: WRITTEN,
        items,
    }
}

fn snapshot(to: u64, items: Vec<Item>, secrets: &[usize]) -> Batch {
    Batch {
        from: None,
        to: Revision::new(1, to),
        items,
        secrets: secrets.iter().copied().collect(),
    }
}

fn restored(kept: Kept, now: &Stamp) -> Mirror {
    let mut mirror = Mirror::default();
    mirror.restore(kept, now).unwrap();
    mirror
}

fn any_kept() -> impl Strategy<Value = Kept> {
    let entry = (
        "[a-c]{1,2}(/[a-c]{1,2}){0,2}",
        any::<(u64, u64)>(),
        prop::option::of(any::<u64>()),
        prop::collection::vec(any::<u8>(), 0..64),
    );
    let entry = entry.prop_map(|(path, (epoch, n), valid_for_ms, value)| Item {
        path: path.parse().unwrap(),
        entry: Some(Mirrored {
            revision: Revision::new(epoch, n),
            content_type: "text/plain".to_owned(),
            valid_for_ms,
            value: Value::from(Bytes::from(value)),
        }),
    });
    let head = (any::<u64>(), any::<u64>(), any::<[u8; 16]>(), any::<(u64, u64)>());
    (head, prop::collection::vec(entry, 0..8)).prop_map(|(head, items)| Kept {
        revision: Revision::new(1, head.0),
        age_ms: head.1,
        written: Stamp {
            boot_id: head.2,
            boottime_ms: head.3.0,
            calendar_ms: head.3.1,
        },
        ..kept("a", items)
    })
}

proptest! {
    #[test]
    fn what_was_written_is_read(kept in any_kept()) {
        prop_assert_eq!(Kept::decode(&kept.encode()), Ok(kept));
    }

    #[test]
    fn what_was_cut_or_changed_is_not(kept in any_kept(), place in any::<prop::sample::Index>(), bit in 0..8) {
        let whole = kept.encode();
        let at = place.index(whole.len());
        prop_assert!(Kept::decode(&whole[..at]).is_err());
        let mut flipped = whole.clone();
        flipped[at] ^= 1_u8 << bit;
        prop_assert!(Kept::decode(&flipped).is_err());
        let longer = [whole.as_slice(), b"x"].concat();
        prop_assert_eq!(Kept::decode(&longer), Err(Unreadable::Damaged));
    }

    /// By whatever clocks it is read: never younger than this boot or than it was, and no entry for longer than it had.
    #[test]
    fn no_step_of_a_clock_makes_it_young(
        boot in 1..=2_u8, boottime_ms in 0..200_000_u64, stepped_ms in -300_000..300_000_i64, valid in 1..300_000_u64,
    ) {
        let calendar_ms = WRITTEN.calendar_ms.strict_add_signed(stepped_ms);
        let now = Stamp { boot_id: [boot; 16], boottime_ms, calendar_ms };
        let same_boot = now.boot_id == WRITTEN.boot_id;
        let least = if same_boot { boottime_ms.saturating_sub(WRITTEN.boottime_ms) } else { boottime_ms };
        let mirror = restored(kept("a", vec![item("a", Some(valid)), item("a/b", None)]), &now);
        prop_assert!(mirror.age(now.moment()).unwrap().ms >= least + 10);
        let ends = Moment(boottime_ms + valid.saturating_sub(least));
        prop_assert!(!matches!(mirror.get("a", ends), Lookup::Found(_)));
        let gone_back = if same_boot { boottime_ms < WRITTEN.boottime_ms } else { stepped_ms < 0 };
        prop_assert!(!gone_back || mirror.peek("a").is_none());
        prop_assert!(mirror.peek("a/b").is_some());
    }

    #[test]
    fn what_is_below_other_prefixes_is_what_both_cover(
        kept in any_kept(),
        held in prop::collection::vec("|[a-c](/[a-c]{1,2})?", 0..3),
        wanted in prop::collection::vec("|[a-c](/[a-c]{1,2})?", 0..3),
    ) {
        let parsed = |all: &[String]| all.iter().map(|one| one.parse().unwrap()).collect::<Vec<PathPrefix>>();
        let (held, wanted) = (parsed(&held), parsed(&wanted));
        let covers = |all: &[PathPrefix], path: &str| all.iter().any(|prefix| prefix.covers(path));
        let kept = Kept { below: held.clone(), ..kept };
        let within = kept.clone().within(&wanted);
        for path in ["a", "a/a", "b/b", "b/bb/c", "c", "cc"] {
            prop_assert_eq!(covers(&within.below, path), covers(&held, path) && covers(&wanted, path));
        }
        let both = |item: &&Item| covers(&held, &item.path) && covers(&wanted, &item.path);
        let expected: Vec<_> = kept.items.iter().filter(both).cloned().collect();
        prop_assert_eq!(within.items, expected);
    }

    #[test]
    fn bytes_of_others_are_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Kept::decode(&bytes).is_err());
    }
}

/// A file of the first version.
const GOLDEN: &str = concat!(
    "6d6f6f726c696e65206d6972726f720a01",
    "1f898b52ea3776171a7a44bb2a71c78f92bba29a4bc49c026e633872aeb6bbac",
    "07070707070707070707070707070707",
    "03047465737401016101090a01010101010101010101010101010101d0860380d095ffbc310103612f620101020a74657874",
    "2f706c61696e01f4030576616c7565",
);

/// Files outlast the builds that wrote them.
#[test]
fn the_first_version_stays_as_it_is() {
    let bytes = kept("a", vec![item("a/b", Some(500))]).encode();
    let hex = bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    assert_eq!(hex, GOLDEN);
    let mut newer = bytes;
    newer[16] = VERSION + 1;
    assert_eq!(Kept::decode(&newer), Err(Unreadable::Newer(VERSION + 1)));
}

#[test]
fn secret_entries_and_those_beside_the_prefixes_are_left_out() {
    let mut mirror = Mirror::default();
    let (below, now) = (["a".parse().unwrap()], WRITTEN);
    assert_eq!(Kept::of_mirror(&mirror, origin(), &below, now), None);
    let items = ["a", "a/secret", "ab", "b"].map(|path| item(path, None)).into();
    mirror.apply(snapshot(9, items, &[1]), now.moment()).unwrap();
    let kept = Kept::of_mirror(&mirror, origin(), &below, now).unwrap();
    let paths: Vec<_> = kept.items.iter().map(|item| item.path.as_str()).collect();
    assert_eq!((paths, kept.revision), (vec!["a"], Revision::new(1, 9)));
    // What it began with is no word of the host's.
    let mirror = restored(kept, &now);
    assert_eq!(Kept::of_mirror(&mirror, origin(), &below, now), None);
}

#[test]
fn it_is_as_old_as_it_is() {
    let age = |now: Stamp| {
        let age = restored(kept("a", Vec::new()), &now).age(now.moment()).unwrap();
        assert_eq!(age.freshness, Freshness::Stale);
        age.ms
    };
    assert_eq!(age(later(0)), 10);
    assert_eq!(age(later(700)), 710);
    assert_eq!(age(rebooted(60_000)), 60_010);
    for behind in [-1, 500] {
        assert_eq!(age(rebooted(behind)), 4_010, "at least as long as the boot");
    }
}

#[test]
fn what_has_run_out_meanwhile_is_not_there() {
    let at = |now: Stamp| {
        let items = vec![item("a", Some(10_000)), item("a/b", None)];
        let mirror = restored(kept("a", items), &now);
        let found = |path, at| matches!(mirror.get(path, Moment(at)), Lookup::Found(_));
        assert!(found("a/b", now.boottime_ms));
        (found("a", now.boottime_ms), found("a", now.boottime_ms + 600))
    };
    assert_eq!(at(later(0)), (true, true));
    assert_eq!(at(rebooted(9_500)), (true, false));
    assert_eq!(at(rebooted(10_000)), (false, false));
    assert_eq!(
        at(rebooted(500)),
        (true, true),
        "4 s of 10 are over, whatever the calendar says"
    );
    assert_eq!(at(rebooted(-1)), (false, false), "nobody knows what is left");
}

#[test]
fn it_says_nothing_of_what_was_not_kept() {
    let now = later(0);
    let mut mirror = restored(kept("a", vec![item("a/b", None)]), &now);
    let moment = now.moment();
    assert!(matches!(mirror.get("a/b", moment), Lookup::Found(_)));
    assert_eq!(mirror.get("a/c", moment), Lookup::Unknown);
    let reaches = |mirror: &Mirror, prefix: &str| mirror.reaches(&prefix.parse().unwrap());
    assert!(reaches(&mirror, "a") && reaches(&mirror, "a/c"));
    assert!(!reaches(&mirror, "") && !reaches(&mirror, "b"));
    mirror.apply(snapshot(9, Vec::new(), &[]), moment).unwrap();
    assert_eq!(mirror.get("a/b", moment), Lookup::Absent);
    assert!(reaches(&mirror, ""));
}

#[test]
fn only_the_hosts_data_make_it_young() {
    let now = later(0);
    let mut mirror = restored(kept("a", Vec::new()), &now);
    assert_eq!(
        (mirror.revision(), mirror.applied()),
        (Some(Revision::new(1, 9)), None)
    );
    let moment = now.moment();
    mirror.heard(moment);
    let age = mirror.age(moment).unwrap();
    assert_eq!((age.ms, age.freshness), (10, Freshness::Stale));
    mirror.apply(snapshot(9, Vec::new(), &[]), moment).unwrap();
    let age = mirror.age(Moment(moment.0 + STALE_AFTER_MS)).unwrap();
    assert_eq!((age.ms, age.freshness), (STALE_AFTER_MS, Freshness::Fresh));
}

#[test]
fn what_was_kept_is_shown_on_while_the_host_has_less() {
    let now = later(0);
    let mut mirror = restored(kept("a", vec![item("a", None)]), &now);
    let moment = now.moment();
    let known = Known {
        at: moment,
        age_ms: 0,
    };
    mirror.stand(Standing::Behind(None, known), moment);
    mirror.apply(snapshot(8, Vec::new(), &[]), moment).unwrap();
    assert!(matches!(mirror.get("a", moment), Lookup::Found(_)));
    assert_eq!(
        (mirror.revision(), mirror.applied()),
        (Some(Revision::new(1, 9)), None)
    );
    mirror.stand(Standing::InStep(Revision::new(1, 10)), moment);
    mirror.apply(snapshot(10, Vec::new(), &[]), moment).unwrap();
    assert_eq!(mirror.get("a", moment), Lookup::Absent);
}

#[test]
fn readers_are_led_to_the_hosts_data_and_never_back() {
    let now = later(0);
    let mut mirror = restored(kept("a", vec![item("a", None)]), &now);
    let cursor = mirror.cursor();
    let back = mirror.apply(snapshot(8, Vec::new(), &[]), now.moment());
    assert!(matches!(back, Err(Refusal::Backwards { .. })));
    let change = Batch {
        from: Some(Revision::new(1, 9)),
        ..snapshot(10, Vec::new(), &[])
    };
    let gap = mirror.apply(change, now.moment());
    assert!(matches!(gap, Err(Refusal::Gap { at: None, .. })));
    mirror.apply(snapshot(10, Vec::new(), &[]), now.moment()).unwrap();
    // What was not kept may have changed, too, so that every watch lists again.
    assert!(mirror.next_change(cursor).is_err());
    mirror.restore(kept("a", vec![item("a", None)]), &now).unwrap();
    assert!(mirror.is_empty(), "the host has spoken");
}

#[test]
fn prefixes_of_everything_are_read_back() {
    let kept = Kept {
        below: vec![PathPrefix::ALL],
        ..kept("a", Vec::new())
    };
    assert_eq!(Kept::decode(&kept.encode()).unwrap().below, [PathPrefix::ALL]);
}
