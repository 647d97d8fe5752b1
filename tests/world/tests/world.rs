//! The world under schedules of every kind; and with bugs in it, each of which must be found.
//!
//! Run it by `cargo test --profile world -p moorline-world`. `WORLD_SEEDS=FROM..TO` explores other seeds than those of
//! every day.

use std::ops::Range;
use std::time::{Duration, Instant};

use moorline_world::disk::Round;
use moorline_world::event::{Size, Whom};
use moorline_world::explore::{Counts, explore, first_failure, run, schedule};
use moorline_world::{Event, Mutant};

/// How many schedules each of the two tests runs that explore.
const HALF: u64 = 5_000;
/// How long it may take to find a mutant.
const FOUND_WITHIN: Duration = Duration::from_mins(1);

/// What must have happened in half of the schedules, and how often at least.
const HAPPENED: [(&str, u64); 28] = [
    ("a feed goes on from a cursor", 1_000),
    ("a feed begins from nothing", 1_000),
    ("a host begins with what is on its disk", 1_000),
    ("a feed falls silent", 500),
    ("an entry is withdrawn", 500),
    ("a batch has several items", 1_000),
    ("a call overtakes another", 500),
    ("a call is lost", 500),
    ("an answer is lost", 100),
    ("a call is made twice", 500),
    ("late bytes reach a host", 200),
    ("a mirror is compared", 1_000_000),
    ("a mirror is stale", 50_000),
    ("a view of another instance is compared", 10_000),
    ("an agent of an earlier life is looked at", 10_000),
    ("another's entry is read", 50),
    ("another's entry is denied", 500),
    ("another's are listed", 500),
    ("a watch begins", 1_000),
    ("a program's write begins", 5_000),
    ("a write is acknowledged", 1_000),
    ("a write is refused", 500),
    ("a write is sent again", 500),
    ("a write is unsettled", 100),
    ("a life begins", 1_000),
    ("a machine is put back", 500),
    ("a slot is used again", 100),
    ("a machine becomes another instance's", 30),
];

/// What failed once, as short as it did.
fn failed_once() -> [Vec<Event>; 4] {
    let (small, append) = (Size::Small, true);
    let share_with = |whom| Event::Share {
        slot: 2,
        path: 0,
        whom,
    };
    let share = share_with(Whom::Instance(2));
    let put = Event::Put {
        slot: 2,
        path: 0,
        size: small,
    };
    let write = |slot, append| Event::Write {
        slot,
        of: slot,
        append,
    };
    [
        // A guest that stood still took what had lain in its socket for the present state.
        vec![
            Event::Pause(2),
            share,
            Event::Flow(3),
            Event::RestorePlane(9),
            Event::Advance(41_536),
            Event::Resume(2),
            Event::Flow(1),
        ],
        // The same of a piece of a frame.
        vec![
            Event::Advance(24_184),
            Event::Pause(3),
            Event::Pair(3),
            Event::Advance(68_559),
            Event::Resume(3),
            Event::RestorePlane(9),
            Event::Move(5, 11),
        ],
        // A write that comes again after a backup was restored is answered in the epoch of that.
        vec![
            write(2, !append),
            write(3, append),
            Event::Pair(2),
            put,
            Event::Snapshot(2),
            Event::Advance(1_960),
            Event::Delete(0, 0),
            Event::Part(1),
            Event::Restore(2),
            Event::Terminate(3),
            Event::Tag(3, false),
            Event::Advance(1_341),
            Event::RestorePlane(7),
        ],
        // What a guest was shown, and its host had not written down, came to nothing while the host was away.
        vec![
            share_with(Whom::Nobody),
            Event::Advance(2_000),
            Event::Save(1, Round::Whole),
            share_with(Whom::Owner),
            Event::Advance(2_000),
            Event::KillHost(1),
            share_with(Whom::Nobody),
            Event::Flow(1),
            Event::StartHost(1),
        ],
    ]
}

fn seeds(half: u64) -> Range<u64> {
    let given = std::env::var("WORLD_SEEDS").ok();
    let given = given.map(|text| {
        let (from, to) = text.split_once("..").expect("WORLD_SEEDS is FROM..TO");
        (
            from.parse().expect("FROM is a number"),
            to.parse().expect("TO is a number"),
        )
    });
    let (from, to): (u64, u64) = given.unwrap_or((0, 2 * HALF));
    let middle = u64::midpoint(from, to);
    if half == 0 { from..middle } else { middle..to }
}

fn explored(half: u64) {
    let seeds = seeds(half);
    let schedules = seeds.end - seeds.start;
    let begun = Instant::now();
    let counts = explore(seeds, Mutant::None).unwrap_or_else(|failure| panic!("{failure}"));
    println!("{schedules} schedules in {:?}: {counts:#?}", begun.elapsed());
    if schedules >= HALF {
        happened(&counts);
    }
}

fn happened(counts: &Counts) {
    let events = counts.iter().filter(|(what, _)| what.starts_with("event "));
    for (what, times) in events {
        assert!(*times > 1_000, "{what} happened {times} times only");
    }
    for (what, least) in HAPPENED {
        let times = counts.get(what).copied().unwrap_or(0);
        assert!(times >= least, "'{what}' happened {times} times only");
    }
}

#[test]
fn the_invariants_hold_in_one_half_of_the_schedules() {
    explored(0);
}

#[test]
fn the_invariants_hold_in_the_other_half_of_the_schedules() {
    explored(1);
}

#[test]
fn what_failed_once_holds() {
    for schedule in failed_once() {
        run(&schedule, Mutant::None).unwrap_or_else(|violation| panic!("{violation}: {schedule:?}"));
    }
}

#[test]
fn the_same_schedule_comes_to_the_same() {
    for seed in 0..20 {
        let once = run(&schedule(seed), Mutant::None).expect("the invariants hold");
        let again = run(&schedule(seed), Mutant::None).expect("the invariants hold");
        assert_eq!(once.counts, again.counts, "seed {seed}");
        assert_eq!(once.plane.head(), again.plane.head(), "seed {seed}");
    }
}

fn is_found(mutant: Mutant) {
    let begun = Instant::now();
    let found = first_failure(0..2_000, mutant);
    let (seed, violation) = found.unwrap_or_else(|| panic!("{mutant:?} is not found"));
    let mut violation = violation;
    violation.truncate(160);
    println!(
        "{mutant:?} is found after {seed} schedules and {:?}: {violation}",
        begun.elapsed()
    );
    assert!(begun.elapsed() < FOUND_WITHIN, "{mutant:?} is found too late");
}

macro_rules! mutants {
    ($($name:ident: $mutant:ident;)*) => {
        $(
            #[test]
            fn $name() {
                is_found(Mutant::$mutant);
            }
        )*
    };
}

mutants! {
    a_batch_that_is_applied_in_pieces_is_found: SplitBatch;
    a_withdrawal_that_is_not_told_is_found: ForgottenWithdrawal;
    a_commit_that_is_lost_in_a_crash_is_found: LostCommit;
    a_retry_that_is_made_again_is_found: ForgottenKey;
    a_life_that_goes_on_after_its_end_is_found: UndeadLife;
    a_host_that_is_always_fresh_is_found: EternallyFresh;
    a_mirror_that_another_instance_inherits_is_found: InheritedMirror;
    a_cursor_that_is_ahead_of_what_was_applied_is_found: HastyCursor;
    a_position_that_is_ahead_of_the_disk_is_found: HastyPosition;
}
