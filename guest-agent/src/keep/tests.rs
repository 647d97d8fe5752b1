//! An agent, and the next one on the same disk.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use moorline_shared::{PathPrefix, Revision};
use tempfile::TempDir;

use super::{Keeper, Pace, read};
use crate::mirror::{Lookup, Mirror};
use crate::platform::now;
use crate::test_host::{OTHER, OWN, Rig, run, settings, until};

const PACE: Pace = Pace {
    first_wait: Duration::from_millis(20),
    gathering: Duration::from_millis(1),
    after_failure: Duration::from_millis(5),
};

/// A disk that outlasts the agents.
struct Disk(TempDir);

impl Disk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("state/mirror")
    }

    fn keeper(&self, rig: &Rig, below: &[&str]) -> Keeper {
        let below = below.iter().map(|prefix| prefix.parse().unwrap()).collect();
        let (line, mirror) = (Rc::clone(&rig.line), Rc::clone(&rig.mirror));
        Keeper::new(self.file().parent().unwrap(), below, line, mirror, PACE)
    }

    /// Has the rig's agent keep what is below `below` until it is stopped.
    fn keep(&self, rig: &mut Rig, below: &[&str]) {
        let (keeper, stop) = (self.keeper(rig, below), rig.stop.clone());
        rig.tasks.spawn_local(async move { keeper.keep(&stop).await });
    }

    /// Waits until the file has the state at the `n`-th revision.
    async fn has(&self, n: u64) {
        until(|| read(&self.file()).is_ok_and(|kept| kept.revision == Revision::new(1, n))).await;
    }

    /// What an agent leaves behind that had `a = one`.
    async fn written() -> Self {
        let disk = Self::new();
        let mut rig = Rig::linked().await;
        disk.keep(&mut rig, &["a"]);
        disk.has(2).await;
        disk
    }
}

fn value(mirror: &Mirror, path: &str) -> Option<Vec<u8>> {
    match mirror.get(path, now()) {
        Lookup::Found(entry) => Some(entry.value().bytes().to_vec()),
        _ => None,
    }
}

/// Waits until the mirror has this value.
async fn shows(rig: &Rig, path: &str, wanted: &str) {
    let look = |mirror: &Mirror| (value(mirror, path)? == wanted.as_bytes()).then_some(());
    rig.mirror.until(look).await;
}

fn unusable(file: &Path) -> PathBuf {
    file.with_added_extension("unusable")
}

#[test]
fn what_was_kept_is_read_while_the_host_is_away_and_gives_way_to_its_data() {
    run(async {
        let disk = Disk::written().await;
        let mode = fs::metadata(disk.file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut rig = Rig::without_host(settings()).await;
        disk.keep(&mut rig, &["a"]);
        shows(&rig, "a", "one").await;
        assert_eq!(rig.mirror.read().applied(), None);
        assert_eq!(rig.line.identity().unwrap().instance, OWN);
        rig.host.change(&[("a", Some(b"one"))]);
        rig.host.change(&[("a", Some(b"two"))]);
        rig.start_host();
        shows(&rig, "a", "two").await;
        // It holds part of what there is, and so its HELLO claims nothing.
        assert!(rig.host.with(|state| state.hellos[0].applied.is_none()));
        disk.has(3).await;
    });
}

#[test]
fn what_changed_last_is_there_when_the_agent_ends() {
    run(async {
        let disk = Disk::new();
        let mut rig = Rig::linked().await;
        let keeper = Keeper {
            pace: Pace {
                gathering: Duration::from_hours(1),
                ..PACE
            },
            ..disk.keeper(&rig, &[""])
        };
        rig.host.change(&[("a", Some(b"two"))]);
        shows(&rig, "a", "two").await;
        rig.stop.cancel();
        keeper.keep(&rig.stop).await;
        assert_eq!(read(&disk.file()).unwrap().items.len(), 1);
        rig.tasks.shutdown().await;
    });
}

#[test]
fn nothing_is_written_for_what_is_not_kept() {
    run(async {
        let disk = Disk::new();
        let rig = Rig::linked().await;
        let keeper = disk.keeper(&rig, &["a", "b"]);
        let mut seen = None;
        assert!(
            keeper.is_due(&rig.mirror.read(), &mut seen),
            "nothing is written yet"
        );
        seen = Some(rig.mirror.read().cursor());
        rig.host.change(&[("c", Some(b"x"))]);
        rig.mirrored(3).await;
        assert!(!keeper.is_due(&rig.mirror.read(), &mut seen));
        rig.host.change(&[("b", Some(b"x"))]);
        rig.mirrored(4).await;
        assert!(keeper.is_due(&rig.mirror.read(), &mut seen));
    });
}

#[test]
fn another_machine_is_not_shown_what_a_copied_disk_has() {
    run(async {
        let disk = Disk::written().await;
        let mut rig = Rig::without_host(settings()).await;
        disk.keep(&mut rig, &["a"]);
        shows(&rig, "a", "one").await;
        rig.host.with(|state| state.instance = OTHER);
        rig.host.change(&[("b", Some(b"its own"))]);
        rig.start_host();
        shows(&rig, "b", "its own").await;
        assert_eq!(value(&rig.mirror.read(), "a"), None);
        until(|| read(&disk.file()).is_ok_and(|kept| kept.of.instance == OTHER)).await;
    });
}

#[test]
fn another_machine_that_has_no_data_yet_is_shown_nothing() {
    run(async {
        let disk = Disk::written().await;
        let rig = Rig::linked().await;
        rig.mirror.forget();
        let keeper = disk.keeper(&rig, &["a"]);
        keeper.restore().unwrap();
        assert_eq!(value(&rig.mirror.read(), "a").as_deref(), Some(&b"one"[..]));
        rig.mirror.forget();
        rig.host.with(|state| state.incarnation += 1);
        rig.host.order(crate::test_host::Order::Cut);
        rig.mirrored(2).await;
        rig.mirror.forget();
        keeper.restore().unwrap();
        assert_eq!(value(&rig.mirror.read(), "a"), None);
    });
}

#[test]
fn what_cannot_be_used_is_set_aside_and_the_mirror_begins_empty() {
    run(async {
        let disk = Disk::written().await;
        let (file, whole) = (disk.file(), fs::read(disk.file()).unwrap());
        let long = vec![0; super::MAX_FILE_BYTES + 1];
        for bytes in [&whole[..whole.len() - 1], &long, b""] {
            fs::write(&file, bytes).unwrap();
            let rig = Rig::without_host(settings()).await;
            disk.keeper(&rig, &["a"]).begin().await;
            assert_eq!(rig.mirror.read().revision(), None);
            assert!(!file.exists());
            assert_eq!(fs::read(unusable(&file)).unwrap(), bytes);
        }
    });
}

/// The release that wrote it may be back before the host is.
#[test]
fn what_a_newer_release_kept_stays_until_the_mirror_is_kept_anew() {
    run(async {
        let disk = Disk::written().await;
        let mut newer = fs::read(disk.file()).unwrap();
        newer[16] += 1;
        fs::write(disk.file(), &newer).unwrap();
        let mut rig = Rig::without_host(settings()).await;
        disk.keeper(&rig, &["a"]).begin().await;
        assert_eq!(rig.mirror.read().revision(), None);
        assert_eq!(fs::read(disk.file()).unwrap(), newer);
        disk.keep(&mut rig, &["a"]);
        rig.host.change(&[("a", Some(b"two"))]);
        rig.start_host();
        disk.has(2).await;
        assert!(!unusable(&disk.file()).exists());
    });
}

#[test]
fn what_is_not_to_be_kept_any_more_is_removed() {
    run(async {
        let disk = Disk::written().await;
        let whole = fs::read(disk.file()).unwrap();
        fs::write(unusable(&disk.file()), &whole[1..]).unwrap();
        fs::write(disk.file().with_added_extension("new"), &whole[..60]).unwrap();
        let rig = Rig::without_host(settings()).await;
        disk.keeper(&rig, &[]).keep(&rig.stop).await;
        assert_eq!(fs::read_dir(disk.file().parent().unwrap()).unwrap().count(), 0);
    });
}

#[test]
fn who_keeps_less_than_before_is_shown_no_more_than_that() {
    run(async {
        let disk = Disk::new();
        let mut rig = Rig::linked().await;
        rig.host.change(&[("b/c", Some(b"three"))]);
        disk.keep(&mut rig, &["a", "b"]);
        disk.has(3).await;
        let shown = async |below: &[&str]| {
            let rig = Rig::without_host(settings()).await;
            disk.keeper(&rig, below).begin().await;
            let mirror = rig.mirror.read();
            ["a", "b/c"].map(|path| value(&mirror, path).is_some())
        };
        assert_eq!(shown(&["a", "b"]).await, [true, true]);
        assert_eq!(shown(&["b/c"]).await, [false, true]);
        assert_eq!(shown(&["b/c/d"]).await, [false, false]);
        let rig = Rig::without_host(settings()).await;
        disk.keeper(&rig, &["c"]).begin().await;
        assert_eq!(
            rig.mirror.read().revision(),
            None,
            "nothing of it is kept any more"
        );
    });
}

#[test]
fn what_could_not_be_written_is_written_again_though_nothing_changes() {
    run(async {
        let disk = Disk::written().await;
        let mut rig = Rig::linked().await;
        let file = disk.file();
        fs::remove_file(&file).unwrap();
        // Nothing takes the place of a folder that has something in it.
        fs::create_dir_all(file.join("full")).unwrap();
        let keeper = Rc::new(disk.keeper(&rig, &["a"]));
        let (kept, stop) = (Rc::clone(&keeper), rig.stop.clone());
        rig.tasks.spawn_local(async move { kept.keep(&stop).await });
        until(|| keeper.failed.get()).await;
        let left = fs::read_dir(file.parent().unwrap()).unwrap();
        assert_eq!(left.count(), 1, "what was half written takes no room");
        fs::remove_dir_all(&file).unwrap();
        disk.has(2).await;
        until(|| !keeper.failed.get()).await;
    });
}

#[test]
fn without_a_disk_the_agent_goes_on() {
    run(async {
        let disk = Disk::new();
        fs::write(disk.0.path().join("state"), "no folder").unwrap();
        let mut rig = Rig::linked().await;
        let keeper = disk.keeper(&rig, &[""]);
        assert_eq!(keeper.below, [PathPrefix::ALL]);
        keeper.begin().await;
        keeper.write().await;
        assert!(keeper.failed.get());
        rig.host.change(&[("a", Some(b"two"))]);
        shows(&rig, "a", "two").await;
        rig.tasks.shutdown().await;
    });
}
