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
    scrape.gauges("process_cpu_seconds", time, one(processor_seconds()));
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
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in parentheses, may have spaces in it. After it, user and system time are the 12th and 13th fields.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    let ticks: f64 = ticks.collect::<Result<Vec<_>, _>>().ok()?.into_iter().sum();
    Some(ticks / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::{most_descriptors, open_descriptors, processor_seconds, resident_bytes};

    #[test]
    fn the_kernel_tells_all_of_it() {
        assert!(resident_bytes().unwrap() > 100_000.0);
        assert!(open_descriptors().unwrap() >= 3.0);
        assert!(most_descriptors().unwrap() >= open_descriptors().unwrap());
        assert!(processor_seconds().is_some());
    }
}
