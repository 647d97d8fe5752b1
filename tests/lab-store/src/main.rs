//! `lab-store`: parts of the control plane by themselves, on the store that a control plane has left behind.
//!
//! * `commit` takes the transactions of a load out of the store and commits their rows again, with the same grouping
//!   and the same settings of `SQLite`, and nothing around it: the most that a control plane on this disk could do.
//! * `groups` says how many groups a control plane has committed, while it runs.
//! * `step` runs the rules of `PutInstanceData` over the store's state in memory, again and again, on one thread.
//! * `tokens` fills a new store with sessions, and makes and checks tokens of them on one thread.
//! * `fanout` fills a new store with hosts, and tells their feeds of changes, without a connection.
//!
//! Each prints one number, `tokens` and `fanout` several as JSON; `commit` and `step` what they did per second. The program is one
//! of its own because the lab itself is built for quick building, and what is measured must not be.

#![forbid(unsafe_code)]

mod commit;
mod fanout;
mod groups;
mod step;
mod tokens;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use moorline_control::store::Store;
use moorline_control::store::sqlite::Options;
use moorline_shared::{EntryPath, InstanceId};
use serde::Serialize;
use tokio::runtime::Runtime;

#[derive(Debug, Parser)]
#[command(name = "lab-store")]
struct Arguments {
    /// The file of the store. Its control plane must have ended, but for `groups`.
    #[arg(long)]
    store: PathBuf,
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Commits recorded transactions bare.
    Commit {
        /// Those after this revision.
        #[arg(long)]
        after: u64,
        /// How many share a commit, on average.
        #[arg(long)]
        group: f64,
        /// Where to; the file must not exist.
        #[arg(long)]
        file: PathBuf,
    },
    /// Counts the groups that were committed, from anywhere on.
    Groups,
    /// Makes and checks tokens. The store must not be there.
    Tokens {
        /// Among so many sessions.
        #[arg(long)]
        sessions: u32,
        /// In so many turns of each.
        #[arg(long)]
        turns: u32,
        /// Of so many milliseconds.
        #[arg(long)]
        milliseconds: u64,
    },
    /// Tells feeds of changes. The store must not be there.
    Fanout {
        /// Those of so many hosts.
        #[arg(long)]
        hosts: u32,
        /// Of so many changes, one by one.
        #[arg(long)]
        changes: u32,
    },
    /// Steps `PutInstanceData`.
    Step {
        /// Of this instance.
        #[arg(long)]
        instance: InstanceId,
        /// This entry.
        #[arg(long)]
        path: EntryPath,
        /// For so many milliseconds.
        #[arg(long)]
        milliseconds: u64,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let number = match arguments.task {
        Task::Groups => groups::committed(&arguments.store)?.into(),
        Task::Commit { after, group, file } => {
            let batches = runtime()?.block_on(commit::recorded(&open(&arguments.store)?, after))?;
            commit::bare(&batches, group, &file)?
        }
        Task::Step {
            instance,
            path,
            milliseconds,
        } => {
            let time = Duration::from_millis(milliseconds);
            runtime()?.block_on(step::rate(&open(&arguments.store)?, instance, path, time))?
        }
        Task::Tokens {
            sessions,
            turns,
            milliseconds,
        } => {
            let time = Duration::from_millis(milliseconds);
            let measured = runtime()?.block_on(tokens::measure(&arguments.store, sessions, turns, time))?;
            return tell(&measured);
        }
        Task::Fanout { hosts, changes } => {
            let measured = runtime()?.block_on(fanout::measure(&arguments.store, hosts, changes))?;
            return tell(&measured);
        }
    };
    println!("{number}");
    Ok(())
}

fn tell(measured: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(measured).context("write what was measured")?;
    println!("{text}");
    Ok(())
}

fn open(store: &Path) -> Result<Store> {
    Store::open_sqlite(store, &Options::default()).context("open the store")
}

fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .context("no runtime")
}

#[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// What this process has in memory, in MiB.
fn resident_mib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .context("no VmRSS")?
        .parse()?;
    Ok(kib / 1_024.0)
}
