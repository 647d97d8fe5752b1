//! Whether the daemons and an agent are as large as they were.

use super::Victims;
use anyhow::{Context, Result, ensure};
use moorline_lab::process::memory;
use std::time::Instant;

/// By how much a process may grow in a second.
const GROWTH: u64 = 8 * 1024;
/// By how much it may grow besides, for what it had not needed yet when it was looked at first. After the ten minutes of the
/// form of half an hour both together are 15 KiB a second.
const SETTLING: u64 = 4 * 1024 * 1024;

/// What the processes that live on had in memory at some time, in bytes: what no file stands behind.
pub(super) struct Footprint {
    at: Instant,
    processes: [(&'static str, u32, u64); 3],
}

impl Footprint {
    /// What they have now.
    pub(super) fn of(victims: &Victims) -> Result<Self> {
        let of = |name, pid: Option<u32>| {
            let pid = pid.with_context(|| format!("the {name} has ended"))?;
            Ok::<_, anyhow::Error>((name, pid, memory(pid, "Anonymous:")?))
        };
        let deployment = &victims.deployment;
        let (_, agent) = victims.guests.first().context("there is a guest")?;
        Ok(Self {
            at: Instant::now(),
            processes: [
                of("control plane", deployment.control_pid())?,
                of("host daemon", deployment.host_pid())?,
                of("agent", agent.pid())?,
            ],
        })
    }

    /// Fails if one of them has grown since `before` by more than it may.
    pub(super) fn is_no_more_than(&self, before: &Self) -> Result<()> {
        let time = self.at - before.at;
        let most = SETTLING + GROWTH * time.as_secs();
        for ((name, pid, now), (_, before, then)) in self.processes.iter().zip(before.processes) {
            eprintln!("{name}: {then} bytes, after {} s {now}", time.as_secs());
            ensure!(*pid == before, "the {name} is another process by now");
            ensure!(
                *now <= then + most,
                "in {} s the {name} grew from {then} to {now} bytes, by more than {most}",
                time.as_secs()
            );
        }
        Ok(())
    }
}
