//! Guests that are connected and do nothing.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::guest::Connected;
use crate::plan::{Hold, READY};
use crate::poll::Poll;

/// How often it is looked whether a PING is due.
const TICK: Duration = Duration::from_secs(1);

/// Connects all guests, prints [`READY`] once all have their data, and keeps them until the process is killed.
///
/// Fails as soon as one of them is hung up on: a bench that says "1,000 guests" must have them.
pub fn hold(plan: &Hold) -> Result<()> {
    let mut guests = Vec::with_capacity(plan.guests.len());
    let mut poll = Poll::new()?;
    for socket in &plan.guests {
        let guest =
            Connected::open(socket).with_context(|| format!("be the guest of {}", socket.display()))?;
        poll.add(guest.socket()?, guests.len())?;
        guests.push(guest);
    }
    println!("{READY}");
    let mut ticked = Instant::now();
    loop {
        for place in poll.wait(TICK)? {
            guests[place].turn().context("be an idle guest")?;
        }
        if ticked.elapsed() >= TICK {
            ticked = Instant::now();
            for guest in &mut guests {
                guest.tick()?;
            }
        }
    }
}
