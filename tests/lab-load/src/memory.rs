//! How much memory a process takes at most, as the kernel counts it: no look is too late to see it.

use std::fs;

use anyhow::{Context as _, Result};

/// Has the kernel forget how much memory the process had at most.
///
/// Fails when there is no such process, or it is another user's.
pub fn forget_peak(process: u32) -> Result<()> {
    fs::write(format!("/proc/{process}/clear_refs"), "5").context("reset a process's peak of memory")
}

/// How much memory the process had at most since that was forgotten, in bytes.
///
/// Fails when there is no such process.
pub fn peak_bytes(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).context("look at a process")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
    let kib: u64 = kib.context("a process has no peak of memory")?.trim().parse()?;
    Ok(kib * 1_024)
}

#[cfg(test)]
mod tests {
    use super::{forget_peak, peak_bytes};
    use std::hint::black_box;

    #[test]
    fn a_peak_is_seen_and_forgotten() {
        const MUCH: usize = 64 * 1024 * 1024;
        let ours = std::process::id();
        drop(black_box(vec![1_u8; MUCH]));
        let peak = peak_bytes(ours).unwrap();
        forget_peak(ours).unwrap();
        assert!(peak_bytes(ours).unwrap() + MUCH as u64 / 2 < peak);
    }
}
