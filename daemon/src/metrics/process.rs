//! What a daemon says of its own process, under the names that Prometheus' own libraries have for it.

use std::fs;

use super::Scrape;

/// The kernel counts time for user space in hundredths of a second, whatever it counts in itself.
const TICKS_PER_SECOND: f64 = 100.0;

/// Adds the release, and what the kernel knows of this process. What can't be read is left out of its family.
pub fn add(scrape: &mut Scrape, version: &'static str) {
    let build = vec![(vec![("version", version.into())], 1.0)];
    scrape.gauges("moorline_build_info", "The release that runs, as a label", build);
    let one = |value: Option<f64>| value.map(|value| (vec![], value)).into_iter().collect();
    let memory = "The memory that the process has resident, in bytes";
    scrape.gauges("process_resident_memory_bytes", memory, one(resident_bytes()));
    let open = "How many descriptors the process has open";
    scrape.gauges("process_open_fds", open, one(open_descriptors()));
    let most = "How many descriptors the process may have open";
    scrape.gauges("process_max_fds", most, one(most_descriptors()));
    let time = "The processor time that the process has used, in seconds";
    scrape.sums("process_cpu_seconds", time, one(processor_seconds()));
    let start = "When the process began, in seconds since 1970";
    scrape.gauges("process_start_time_seconds", start, one(start_seconds()));
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024.0)
}

fn open_descriptors() -> Option<f64> {
    let open = fs::read_dir("/proc/self/fd").ok()?.count();
    // The one that lists them is among them.
    u32::try_from(open).ok().map(|open| f64::from(open) - 1.0)
}

fn most_descriptors() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn processor_seconds() -> Option<f64> {
    // User and system time.
    Some(own_seconds(11)? + own_seconds(12)?)
}

fn start_seconds() -> Option<f64> {
    let kernel = fs::read_to_string("/proc/stat").ok()?;
    let boot = kernel.lines().find_map(|line| line.strip_prefix("btime "))?;
    let boot: f64 = boot.parse().ok()?;
    Some(boot + own_seconds(19)?)
}

/// The time that stands in a field of `/proc/self/stat`, in seconds. Fields are counted behind the name, which is in
/// parentheses and may have spaces in it.
fn own_seconds(field: usize) -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: f64 = fields.split_whitespace().nth(field)?.parse().ok()?;
    Some(ticks / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::{most_descriptors, open_descriptors, processor_seconds, resident_bytes, start_seconds};

    #[test]
    fn the_kernel_tells_all_of_it() {
        assert!(resident_bytes().unwrap() > 100_000.0);
        assert!(open_descriptors().unwrap() >= 3.0);
        assert!(most_descriptors().unwrap() >= open_descriptors().unwrap());
        assert!((0.0..60.0).contains(&processor_seconds().unwrap()));
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs_f64();
        let age = now - start_seconds().unwrap();
        // The kernel says the boot in whole seconds.
        assert!((-2.0..600.0).contains(&age), "{age}");
    }
}
