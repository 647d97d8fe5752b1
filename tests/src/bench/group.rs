//! A control group for whoever is to have half of a core and no more.

use anyhow::{Context as _, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// In how much time the share is counted, in microseconds.
const PERIOD_US: u32 = 100_000;
/// How much of that may be used.
const SHARE_US: u32 = PERIOD_US / 2;

/// A control group whose processes have half of a core together, and of what they share that core with they come last:
/// what is measured is how a server bears them, and not how the kernel shares a core. Dropping it removes it; its processes
/// have to have ended.
#[derive(Debug)]
pub(super) struct HalfCore {
    folder: PathBuf,
}

impl HalfCore {
    /// Makes one.
    ///
    /// Fails where control groups of processors can't be made: it takes root, and a hierarchy that may be written to.
    pub(super) fn make() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("look where control groups are")?;
        let hierarchy = Hierarchy::among(&mounts);
        let hierarchy =
            hierarchy.context("there is no hierarchy of control groups with the controller cpu")?;
        hierarchy.make().with_context(|| {
            format!(
                "make a control group in {}: run this as root, where cgroups may be written to",
                hierarchy.folder().display()
            )
        })
    }

    /// The file that moves whoever writes to it into the group.
    pub(super) fn entrance(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        fs::write(self.folder.join(file), value).with_context(|| format!("set {file}"))
    }
}

impl Drop for HalfCore {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.folder) {
            eprintln!("lab: {} stays: {error}", self.folder.display());
        }
    }
}

/// Where groups with a share of the processors can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Hierarchy {
    /// The one of cgroup v2, which has all controllers.
    Unified(PathBuf),
    /// That of the controller cpu alone, of cgroup v1.
    Cpu(PathBuf),
}

impl Hierarchy {
    /// The first that `mounts` names, the one of v1 before that of v2: where both are there it has the controller.
    fn among(mounts: &str) -> Option<Self> {
        let mut unified = None;
        for line in mounts.lines() {
            let mut words = line.split(' ').skip(1);
            let (folder, kind, options) = (words.next()?, words.next()?, words.next()?);
            match kind {
                "cgroup" if options.split(',').any(|option| option == "cpu") => {
                    return Some(Self::Cpu(folder.into()));
                }
                "cgroup2" => unified = Some(Self::Unified(folder.into())),
                _ => {}
            }
        }
        unified
    }

    fn folder(&self) -> &Path {
        match self {
            Self::Unified(folder) | Self::Cpu(folder) => folder,
        }
    }

    fn make(&self) -> Result<HalfCore> {
        if let Self::Unified(root) = self {
            let controllers =
                fs::read_to_string(root.join("cgroup.controllers")).context("list controllers")?;
            ensure!(
                controllers
                    .split_whitespace()
                    .any(|controller| controller == "cpu"),
                "the controller cpu isn't there"
            );
            fs::write(root.join("cgroup.subtree_control"), "+cpu").context("hand the controller cpu down")?;
        }
        let folder = self
            .folder()
            .join(format!("moorline-bench-{}", std::process::id()));
        if let Err(error) = fs::create_dir(&folder) {
            bail!("{}: {error}", folder.display());
        }
        let group = HalfCore { folder };
        match self {
            Self::Unified(_) => {
                group.set("cpu.max", &format!("{SHARE_US} {PERIOD_US}"))?;
                group.set("cpu.weight", "1")?;
            }
            Self::Cpu(_) => {
                group.set("cpu.cfs_period_us", &PERIOD_US.to_string())?;
                group.set("cpu.cfs_quota_us", &SHARE_US.to_string())?;
                group.set("cpu.shares", "2")?;
            }
        }
        Ok(group)
    }
}

#[cfg(test)]
mod tests {
    use super::Hierarchy;

    #[test]
    fn the_hierarchy_with_processors_is_found() {
        let both = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid 0 0\n\
                    cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\n\
                    cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n";
        let cpu = Hierarchy::Cpu("/sys/fs/cgroup/cpu,cpuacct".into());
        assert_eq!(Hierarchy::among(both), Some(cpu));
        let unified = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert_eq!(
            Hierarchy::among(unified),
            Some(Hierarchy::Unified("/sys/fs/cgroup".into()))
        );
        assert_eq!(Hierarchy::among("proc /proc proc rw 0 0\n"), None);
    }
}
