//! Which core this runs on, and how much of one a process takes.

use std::fs;

use anyhow::{Context as _, Result};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Moves the calling thread to one core, for good.
pub(crate) fn pin(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).with_context(|| format!("run on core {core}"))
}

/// The processor time that all threads of a process have taken so far, in seconds. Threads that have ended are left
/// out: servers under load keep theirs.
#[expect(
    clippy::cast_precision_loss,
    reason = "a process that runs for months isn't measured"
)]
pub(crate) fn seconds_of(process: u32) -> Result<f64> {
    let folder = format!("/proc/{process}/task");
    let tasks = fs::read_dir(&folder).with_context(|| format!("look at process {process}"))?;
    let mut nanoseconds = 0;
    for task in tasks {
        let file = task
            .with_context(|| format!("list {folder}"))?
            .path()
            .join("schedstat");
        // A thread that ends meanwhile has no file any more.
        let text = fs::read_to_string(file).unwrap_or_default();
        nanoseconds += running(&text).unwrap_or(0);
    }
    Ok(nanoseconds as f64 / 1e9)
}

/// The first number of `schedstat`: nanoseconds on a core.
fn running(schedstat: &str) -> Option<u64> {
    schedstat.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{running, seconds_of};
    use std::hint::black_box;

    #[test]
    fn what_a_process_does_is_counted() {
        assert_eq!(running("123456789 1000 7\n"), Some(123_456_789));
        let ours = std::process::id();
        let before = seconds_of(ours).unwrap();
        let sum = (0..5_000_000_u64).fold(0, |sum: u64, n| black_box(sum.wrapping_add(n)));
        black_box(sum);
        assert!(seconds_of(ours).unwrap() > before);
    }
}
