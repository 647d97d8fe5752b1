//! Schedules, one for each seed, and what happened in them.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::check::Violation;
use crate::event::{Event, schedules};
use crate::{Mutant, World};

/// How often what happened.
pub type Counts = BTreeMap<&'static str, u64>;

/// How many events a schedule has.
pub const EVENTS: usize = 200;
/// How often a schedule that fails is run again to make it shorter.
const MOST_SHRINKING: usize = 2_000;

/// A schedule in which an invariant doesn't hold.
#[derive(Debug)]
pub struct Failure {
    /// By which the schedule is made again.
    pub seed: u64,
    /// The shortest that was found to fail still.
    pub schedule: Vec<Event>,
    /// What doesn't hold in it.
    pub violation: Violation,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the schedule of seed {} fails: {}", self.seed, self.violation)?;
        writeln!(f, "it fails still with these events:")?;
        self.schedule
            .iter()
            .enumerate()
            .try_for_each(|(place, event)| writeln!(f, "{place:4} {event:?}"))
    }
}

/// Runs a schedule: looks at the invariants after each event, and at the end heals everything.
///
/// # Errors
/// What doesn't hold, and after which event.
pub fn run(schedule: &[Event], mutant: Mutant) -> Result<World, Violation> {
    let mut world = World::new(mutant);
    world.begin();
    world.check()?;
    for (place, event) in schedule.iter().enumerate() {
        world.happen(event);
        let checked = world.check();
        checked.map_err(|violation| format!("after event {place}, {event:?}: {violation}"))?;
    }
    world.settle()?;
    Ok(world)
}

/// The schedule of a seed.
pub fn schedule(seed: u64) -> Vec<Event> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let tree = schedules(EVENTS).new_tree(&mut runner);
    tree.expect("no schedule is rejected").current()
}

/// Runs the schedules of these seeds, and counts what happened in all of them.
///
/// # Errors
/// The first that fails, made as short as it still does.
pub fn explore(seeds: Range<u64>, mutant: Mutant) -> Result<Counts, Box<Failure>> {
    let mut all = Counts::new();
    for seed in seeds {
        match run(&schedule(seed), mutant) {
            Ok(world) => {
                for (what, times) in world.counts {
                    *all.entry(what).or_default() += times;
                }
            }
            Err(violation) => return Err(shortest(seed, violation, mutant).into()),
        }
    }
    Ok(all)
}

/// The first of these seeds whose schedule fails, and how.
pub fn first_failure(mut seeds: Range<u64>, mutant: Mutant) -> Option<(u64, Violation)> {
    seeds.find_map(|seed| {
        run(&schedule(seed), mutant)
            .err()
            .map(|violation| (seed, violation))
    })
}

/// Leaves out of the schedule of a seed that fails what it fails without.
fn shortest(seed: u64, violation: Violation, mutant: Mutant) -> Failure {
    let mut failure = Failure {
        seed,
        schedule: schedule(seed),
        violation,
    };
    let (mut piece, mut left) = (failure.schedule.len() / 2, MOST_SHRINKING);
    while piece > 0 && left > 0 {
        let mut at = 0;
        while at < failure.schedule.len() && left > 0 {
            left -= 1;
            let mut shorter = failure.schedule.clone();
            shorter.drain(at..(at + piece).min(shorter.len()));
            match run(&shorter, mutant) {
                Ok(_) => at += piece,
                Err(violation) => (failure.schedule, failure.violation) = (shorter, violation),
            }
        }
        piece /= 2;
    }
    failure
}

impl World {
    /// Brings everybody into step for the first time.
    fn begin(&mut self) {
        self.advance(500, crate::happen::Flowing::Yes);
        self.flow(8);
    }
}
