//! Honest guests under load while another one attacks, in turn with the same load beside a polite one.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::drive::Crew;
use crate::memory::{forget_peak, peak_bytes};
use crate::plan::{ATTACK, Attack, Conduct, Faced, Hostile, READY, Stood};

/// Puts the honest guests' load on the host, and takes turns between the polite guest and each attacker beside it. The
/// honest guests stay connected all the time.
///
/// Fails when one of them is hung up on or is answered with anything but its entry, and when an attacker doesn't begin.
pub fn hostile(plan: &Hostile) -> Result<Stood> {
    let pace = Duration::from_micros(plan.pace_us);
    let honest = plan.load.targets.first().context("there are no honest guests")?;
    let mut crew = Crew::assemble(honest, &[])?.at_pace(pace);
    let mut round = |guest: &Attack| {
        let attacker = Attacker::begin(guest)?;
        forget_peak(honest.server)?;
        let round = crew
            .round(&plan.load)
            .with_context(|| format!("the honest guests, beside '{}'", guest.conduct.name()))?;
        let peak = peak_bytes(honest.server)?;
        drop(attacker);
        Ok::<_, anyhow::Error>((round, peak))
    };
    let mut attacks = Vec::new();
    for attack in &plan.attacks {
        let mut faced = Faced::of(attack.conduct);
        let mut base = None;
        for _ in 0..plan.load.rounds {
            let (quiet, quiet_peak) = round(&plan.polite)?;
            faced.quiet.push(quiet);
            // That of the first round stays: what an attack leaves behind is its growth as well.
            let base = *base.get_or_insert(quiet_peak);
            let (attacked, peak) = round(attack)?;
            faced.attacked.push(attacked);
            faced.grown_bytes.push(peak.saturating_sub(base));
        }
        attacks.push(faced);
    }
    Ok(Stood { attacks })
}

/// A process that is a guest beside the honest ones. Dropping it ends it.
struct Attacker {
    child: Child,
    /// What it says later fits into the pipe for longer than a turn takes, as long as there is somebody at its end.
    said: BufReader<ChildStdout>,
}

impl Attacker {
    /// Starts it, and waits until it has begun.
    fn begin(plan: &Attack) -> Result<Self> {
        let program = std::env::current_exe().context("find this program")?;
        let mut child = Command::new(program)
            .arg(ATTACK)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a guest")?;
        let input = child.stdin.take().context("the guest takes no plan")?;
        let output = child.stdout.take().context("the guest says nothing")?;
        let mut attacker = Self {
            child,
            said: BufReader::new(output),
        };
        serde_json::to_writer(input, plan).context("tell a guest its plan")?;
        let mut first = String::new();
        attacker.said.read_line(&mut first).context("hear from a guest")?;
        ensure!(first.trim() == READY, "'{}' doesn't begin", plan.conduct.name());
        Ok(attacker)
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        // One that has ended already needs nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Faced {
    fn of(conduct: Conduct) -> Self {
        Self {
            conduct,
            quiet: Vec::new(),
            attacked: Vec::new(),
            grown_bytes: Vec::new(),
        }
    }
}
