//! What this machine is called and has.

use std::num::NonZeroUsize;

use moorline_shared::HostId;
use rustix::system::{sysinfo, uname};

/// What Moorline has to know of the machine that it runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The host's name, after the machine's.
    pub name: HostId,
    /// How many vCPUs instances may have together: as many as there are cores.
    pub vcpus: usize,
    /// How much memory instances may have together, in MiB: three quarters of what there is.
    pub memory_mib: u64,
}

impl Machine {
    /// This one.
    pub fn present() -> Self {
        let info = sysinfo();
        // A word of 32 bits on some machines, and of 64 on others.
        #[allow(
            clippy::useless_conversion,
            reason = "the kernel's word has another width elsewhere"
        )]
        let memory = u64::from(info.totalram).saturating_mul(info.mem_unit.into());
        Self {
            name: name(&uname().nodename().to_string_lossy()),
            vcpus: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            memory_mib: memory / 4 * 3 / (1024 * 1024),
        }
    }
}

/// The host's name for a machine of this name: what may not stand in one is a `-` there.
fn name(machine: &str) -> HostId {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') => c,
        _ => '-',
    };
    let name: String = machine.chars().map(plain).take(63).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let fallback = || "host".parse().expect("it is a name");
    name.parse().unwrap_or_else(|_| fallback())
}

#[cfg(test)]
mod tests {
    use super::{Machine, name};

    #[test]
    fn any_name_of_a_machine_makes_one_of_a_host() {
        for (machine, host) in [
            ("laptop", "laptop"),
            ("Ada's Laptop", "ada-s-laptop"),
            ("node7.example.org", "node7.example.org"),
            ("-x", "x"),
            ("...", "host"),
            ("", "host"),
        ] {
            assert_eq!(name(machine).as_str(), host);
        }
        assert_eq!(name(&"n".repeat(64)).as_str().len(), 63);
    }

    #[test]
    fn this_machine_has_something_to_give() {
        let machine = Machine::present();
        assert!(machine.vcpus >= 1 && machine.memory_mib >= 64, "{machine:?}");
    }
}
