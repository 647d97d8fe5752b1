//! How far an attacker came, told while it goes on: the host's defence is no reason to say nothing.

use std::time::{Duration, Instant};

use anyhow::{Error, Result};

use crate::plan::{Acts, READY};

/// How often it is told.
const EVERY: Duration = Duration::from_millis(100);
/// How long an attacker may take until it has done anything: none of the host's defences keeps a guest out for so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was done so far.
#[derive(Debug)]
pub(super) struct Tally {
    acts: Acts,
    begun: Instant,
    told: Option<Instant>,
}

impl Tally {
    /// Nothing was done.
    pub(super) fn new() -> Self {
        Self {
            acts: Acts::default(),
            begun: Instant::now(),
            told: None,
        }
    }

    /// Something was done: a request made, a connection begun.
    pub(super) fn act(&mut self) {
        self.acts.done += 1;
        self.tell();
    }

    /// The host ended it, or didn't let it begin. Fails with that where nothing was done for so long.
    pub(super) fn cut(&mut self, why: Error) -> Result<()> {
        if self.acts.done == 0 && self.begun.elapsed() > PATIENCE {
            return Err(why);
        }
        self.acts.cut += 1;
        self.tell();
        Ok(())
    }

    /// Says [`READY`] with the first act, and now and then how much was done.
    pub(super) fn tell(&mut self) {
        if self.acts.done == 0 || self.told.is_some_and(|told| told.elapsed() < EVERY) {
            return;
        }
        if self.told.is_none() {
            println!("{READY}");
        }
        self.told = Some(Instant::now());
        println!("{}", serde_json::json!(self.acts));
    }
}
