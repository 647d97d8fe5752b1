//! Files: the daemon's state and what instances boot from.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

use super::check::Check;
use super::settings::Settings;

/// How deep the state is searched for files that were set aside, and how many entries of it are looked at.
const DEPTH: usize = 4;
const MOST_ENTRIES: usize = 100_000;
/// Below this much free disk, in MiB, something should be done, and below this much nothing works.
const WARN_MIB: u64 = 1_024;
const FAIL_MIB: u64 = 64;

/// The folder of the daemon's state: its rights, its disk, and files that could not be used.
pub(super) fn folder(settings: &Settings, checks: &mut Vec<Check>) {
    let folder = &settings.state_dir.0;
    checks.push(rights(folder));
    checks.push(identity(settings));
    checks.push(disk(folder));
    checks.push(set_aside(folder, MOST_ENTRIES));
}

fn denied(name: &'static str, path: &Path, error: &io::Error) -> Check {
    Check::unknown(name, format!("{}: {error}", path.display()), "run this as root")
}

fn rights(folder: &Path) -> Check {
    const NAME: &str = "state";
    let shown = folder.display();
    match fs::metadata(folder) {
        Ok(found) if found.mode() & 0o022 != 0 => Check::fail(
            NAME,
            format!(
                "{shown}: others may write there (mode {:o})",
                found.mode() & 0o777
            ),
            format!("chmod go-w {shown}"),
        ),
        Ok(found) => Check::ok(NAME, format!("{shown}, mode {:o}", found.mode() & 0o777)),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => denied(NAME, folder, &error),
        Err(error) => {
            let advice = "it is made when the host is enrolled: moorline host enroll-token NAME";
            Check::fail(NAME, format!("{shown}: {error}"), advice)
        }
    }
}

fn identity(settings: &Settings) -> Check {
    const NAME: &str = "identity";
    let file = settings.identity("identity.pem");
    let shown = file.display();
    match fs::metadata(&file) {
        Ok(found) if found.mode() & 0o077 != 0 => Check::fail(
            NAME,
            format!(
                "{shown}: others may read the host's key (mode {:o})",
                found.mode() & 0o777
            ),
            "chmod 600 it; if others have read it, enrol the host again",
        ),
        Ok(_) => Check::ok(NAME, "enrolled"),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => denied(NAME, &file, &error),
        Err(_) => {
            let advice =
                "moorline host enroll-token NAME, on the control plane, and moorline-host enroll - here";
            Check::fail(NAME, "this machine is not enrolled", advice)
        }
    }
}

fn disk(folder: &Path) -> Check {
    const NAME: &str = "disk";
    match statvfs(folder) {
        Ok(found) => room(found.f_bavail.saturating_mul(found.f_frsize) >> 20),
        Err(error) => Check::unknown(
            NAME,
            format!("{}: {error}", folder.display()),
            "see the state above",
        ),
    }
}

fn room(free_mib: u64) -> Check {
    const NAME: &str = "disk";
    let found = format!("{free_mib} MiB free for the state");
    let advice = "make room: instances' disks, and what is kept of instances, lie there";
    match free_mib {
        0..FAIL_MIB => Check::fail(NAME, found, advice),
        FAIL_MIB..WARN_MIB => Check::warn(NAME, found, advice),
        _ => Check::ok(NAME, found),
    }
}

fn set_aside(folder: &Path, most: usize) -> Check {
    const NAME: &str = "set aside";
    let mut found = Vec::new();
    let mut left = most;
    match search(folder, DEPTH, &mut left, &mut found) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => denied(NAME, folder, &error),
        Err(error) => Check::unknown(
            NAME,
            format!("{}: {error}", folder.display()),
            "see the state above",
        ),
        Ok(()) if found.is_empty() && left == 0 => Check::unknown(
            NAME,
            format!("none of the first {most} files was found to be damaged; there are more"),
            format!("find {} -path '*corrupt*'", folder.display()),
        ),
        Ok(()) if found.is_empty() => Check::ok(NAME, "no file was found to be damaged"),
        Ok(()) => {
            let names: Vec<_> = found.iter().map(|path| path.display().to_string()).collect();
            let advice =
                "look at the disk's health; the daemon has gone on without them, and they can be removed";
            Check::warn(NAME, format!("damaged files: {}", names.join(", ")), advice)
        }
    }
}

/// Finds what the daemon could not use and has kept under another name.
fn search(folder: &Path, depth: usize, left: &mut usize, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if *left == 0 {
            return Ok(());
        }
        *left -= 1;
        let is_folder = entry.file_type()?.is_dir();
        let inside = folder.file_name().is_some_and(|name| name == "corrupt");
        let named = entry.file_name().to_string_lossy().contains(".corrupt-");
        if !is_folder && (inside || named) {
            found.push(entry.path());
        } else if is_folder && depth > 0 {
            search(&entry.path(), depth - 1, left, found)?;
        }
    }
    Ok(())
}

/// Whether everything is there that instances can boot.
pub(super) fn images(settings: &Settings, checks: &mut Vec<Check>) {
    const NAME: &str = "images";
    let mut missing = Vec::new();
    for (name, image) in &settings.images {
        for file in image.files() {
            if let Err(error) = File::open(file) {
                missing.push(format!("{name}: {}: {error}", file.display()));
            }
        }
    }
    checks.push(if !missing.is_empty() {
        let advice = "put them back, or correct their paths in the tables [images.NAME]";
        Check::fail(NAME, missing.join("; "), advice)
    } else if settings.images.is_empty() {
        Check::ok(NAME, "none are configured: only VMs of others are served")
    } else {
        Check::ok(NAME, format!("{} can be read", settings.images.len()))
    });
}

#[cfg(test)]
mod tests {
    use super::{rights, room, set_aside};
    use crate::cli::doctor::check::Verdict;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_disk_that_is_nearly_full_is_told_in_time() {
        let verdicts = [10_000, 1_000, 10].map(|free| room(free).verdict);
        assert_eq!(verdicts, [Verdict::Ok, Verdict::Warn, Verdict::Fail]);
    }

    #[test]
    fn a_state_that_others_may_write_is_no_state() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
        mode(0o711);
        assert_eq!(rights(folder.path()).verdict, Verdict::Ok);
        mode(0o777);
        assert_eq!(rights(folder.path()).verdict, Verdict::Fail);
        assert_eq!(rights(&folder.path().join("absent")).verdict, Verdict::Fail);
    }

    #[test]
    fn files_that_were_set_aside_are_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("cache/corrupt")).unwrap();
        fs::write(folder.path().join("cache/a.view"), "").unwrap();
        assert_eq!(set_aside(folder.path(), 9).verdict, Verdict::Ok);
        fs::write(folder.path().join("cache/corrupt/b.view.1"), "").unwrap();
        fs::write(folder.path().join("record.json.corrupt-1"), "").unwrap();
        let check = set_aside(folder.path(), 9);
        assert_eq!(check.verdict, Verdict::Warn);
        assert!(check.found.contains("b.view.1") && check.found.contains("record.json.corrupt-1"));
        assert!(!check.found.contains("a.view"), "{check:?}");
    }

    #[test]
    fn what_was_not_looked_at_is_not_called_well() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let check = set_aside(folder.path(), 2);
        assert_eq!(check.verdict, Verdict::Unknown, "{check:?}");
        assert!(check.found.contains("first 2 files"), "{check:?}");
    }
}
