//! Guests that don't behave: each attack of the design's table of hostile guests that one guest alone can make at its
//! host's socket, at the full rate that a core gives it, until the process is killed.
//!
//! Whatever the host does about it, an attacker goes on: it connects again when it is hung up on. [`tally`] tells how far
//! it came. [`flood`] is for attackers that are let in and then send; [`storm`] for those that are not even let in.

mod flood;
mod storm;
mod tally;

use std::path::Path;

use anyhow::{Context as _, Result};
use moorline_shared::link::body::Hello;
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::guest::{Connected, hello};
use crate::plan::{Attack, Conduct};
use crate::processor;
use tally::Tally;

/// Where an attacker has a value of many frames.
const LARGE: &str = "large/0";
/// How long its large values are, in bytes, and how many small ones it has: together close to what an instance may have.
const LARGE_BYTES: usize = 200_000;
const SMALL: usize = 500;

/// The entries that a guest has to have for its attacks to have much to ask for: paths and values.
pub fn belongings() -> Vec<(String, String)> {
    let large = [LARGE, "large/1", "large/2"].map(|path| (path.to_owned(), "l".repeat(LARGE_BYTES)));
    let small = (0..SMALL).map(|nth| (format!("small/{nth}"), "small".to_owned()));
    let name = [("name".to_owned(), "evil".to_owned())];
    name.into_iter().chain(large).chain(small).collect()
}

/// Is the guest, in the way that the plan says, until the process is killed or its parent ends.
///
/// Fails when it can't be confined; never because of what the host does.
pub fn attack(plan: &Attack) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("end with the parent")?;
    if let Some(cell) = &plan.within {
        processor::pin(cell.core)?;
        // 0 is whoever writes it.
        std::fs::write(&cell.group, "0").context("join a control group")?;
    }
    let mut tally = Tally::new();
    loop {
        // That the host hung up is what most attacks come to, again and again.
        if let Err(error) = live(plan, &mut tally) {
            tally.cut(error).context("the host never let this guest begin")?;
        }
    }
}

/// One life of the attacker, up to where the host ends it or it ends itself.
fn live(plan: &Attack, tally: &mut Tally) -> Result<()> {
    let guest = plan.guest.as_path();
    match plan.conduct {
        Conduct::Polite => flood::read_politely(guest, tally),
        Conduct::NeverReads => flood::never_read(guest, tally),
        Conduct::Reads => flood::flood(guest, tally, flood::read),
        Conduct::Lists => flood::flood(guest, tally, flood::list),
        Conduct::Watches => flood::flood(guest, tally, flood::watch_and_let_go),
        Conduct::OddPaths => flood::flood(guest, tally, flood::ask_for_odd_paths),
        Conduct::UnknownThings => flood::flood(guest, tally, flood::ask_for_unknown_things),
        Conduct::Relays => flood::flood(guest, tally, flood::relay_unsigned),
        Conduct::Writes => flood::write_signed(plan, tally),
        Conduct::Lies => flood::flood(guest, tally, flood::claim_to_differ),
        Conduct::Disappears => flood::disappear(guest, tally),
        Conduct::Hellos => greet_and_leave(guest, tally),
        Conduct::HalfFrames => storm::drip(guest, tally),
        Conduct::BadFrames => storm::talk_nonsense(guest, tally),
        Conduct::Connects => storm::connect(guest, tally),
    }
}

/// Knows nothing of its past, calls itself what no terminal should show, and says goodbye at length.
fn greet_and_leave(guest: &Path, tally: &mut Tally) -> Result<()> {
    let forgetful = Hello {
        build: format!("\x1b[2J\r\n{}", "x".repeat(500)),
        ..hello()
    };
    let mut line = Connected::open_as(guest, &forgetful)?.into_socket()?;
    tally.act();
    line.send(&flood::goodbye())
}
