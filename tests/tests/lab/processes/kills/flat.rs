//! Whether the daemons and an agent are as large as they were.

use super::Victims;
use anyhow::{Context, Result, ensure};
use moorline_lab::process::memory;
use std::time::{Duration, Instant};

/// By how much a process may grow in a second: after the five minutes that the form of half an hour looks at it, a leak of
/// 18 KiB a second shows.
const GROWTH: u64 = 4 * 1024;
/// By how much it may grow besides, whatever it does at the moment.
const SWAYING: u64 = 4 * 1024 * 1024;
/// How large a control plane may become before it counts as growing: so large it is with the newest values in memory, 64 MiB
/// as the store counts them, and the last transactions, 16 MiB. Within the usual time not as much is written.
const CONTROL_PLANE: u64 = 152 * 1024 * 1024;
/// The same of a host daemon with four guests.
const HOST_DAEMON: u64 = 8 * 1024 * 1024;
/// The same of an agent.
const AGENT: u64 = 4 * 1024 * 1024;

/// A process that lives on.
#[derive(Clone, Copy)]
struct Process {
    name: &'static str,
    pid: u32,
    /// How many bytes are in its memory that no file stands behind.
    has: u64,
    /// How many it may have in any case.
    may: u64,
}

impl Process {
    fn look(name: &'static str, pid: Option<u32>, may: u64) -> Result<Self> {
        let pid = pid.with_context(|| format!("the {name} has ended"))?;
        let has = memory(pid, "Anonymous:")?;
        Ok(Self { name, pid, has, may })
    }

    /// Fails if it is larger than it was before, so long ago, by more than it may be.
    fn is_no_more_than(&self, before: &Self, time: Duration) -> Result<()> {
        let Self { name, has, .. } = *self;
        eprintln!("{name}: {} bytes, and {has} after {time:.0?}", before.has);
        ensure!(self.pid == before.pid, "the {name} is another process by now");
        let most = before.has.max(self.may) + SWAYING + GROWTH * time.as_secs();
        ensure!(
            has <= most,
            "in {time:.0?} the {name} grew from {} to {has} bytes, and may have {most}",
            before.has
        );
        Ok(())
    }
}

/// What the processes that live on had in memory at some time.
pub(super) struct Footprint {
    at: Instant,
    processes: [Process; 3],
}

impl Footprint {
    /// What they have now.
    pub(super) fn of(victims: &Victims) -> Result<Self> {
        let deployment = &victims.deployment;
        let (_, agent) = victims.guests.first().context("there is a guest")?;
        Ok(Self {
            at: Instant::now(),
            processes: [
                Process::look("control plane", deployment.control_pid(), CONTROL_PLANE)?,
                Process::look("host daemon", deployment.host_pid(), HOST_DAEMON)?,
                Process::look("agent", agent.pid(), AGENT)?,
            ],
        })
    }

    /// Fails if one of them has grown since `before` by more than it may.
    pub(super) fn is_no_more_than(&self, before: &Self) -> Result<()> {
        for (now, then) in self.processes.iter().zip(&before.processes) {
            now.is_no_more_than(then, self.at - before.at)?;
        }
        Ok(())
    }
}
