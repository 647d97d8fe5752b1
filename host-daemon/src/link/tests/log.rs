//! What a guest can do to the host's log.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::World;

/// How often the hostile guest breaks the protocol, and how many lines the host may write about that at the most: ten at
/// once, and one more every ten seconds that the test takes.
const FAULTS: u64 = 200;
const LINES: u64 = 20;

/// Connects as guest `n`'s machine would, says what is no frame, and waits until the host has hung up.
fn misbehave(world: &World, n: u8) {
    let mut raw = UnixStream::connect(world.socket(n)).unwrap();
    raw.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    raw.write_all(&[0xff; 64]).unwrap();
    // How it hangs up is not what is looked at.
    let _ = raw.read_to_end(&mut Vec::new());
}

#[test]
fn a_guest_that_floods_the_log_leaves_few_lines_and_takes_nobody_elses() {
    let world = World::new();
    world.add(1, &[("a", "0")]);
    world.add(2, &[("a", "0")]);
    for _ in 0..FAULTS {
        misbehave(&world, 1);
    }
    assert_eq!(world.status(1).requests.faults, FAULTS);
    let suppressed = world.counted(|counts| &counts.lines_suppressed);
    let logged = FAULTS - suppressed;
    assert!(
        (10..=LINES).contains(&logged),
        "{logged} lines of {FAULTS} were logged"
    );
    misbehave(&world, 2);
    assert_eq!(world.status(2).requests.faults, 1);
    let after = world.counted(|counts| &counts.lines_suppressed);
    assert_eq!(after, suppressed, "the line about another guest was suppressed");
    assert_eq!(world.counted(|counts| &counts.faults), FAULTS + 1);
}
