//! What the daemon keeps of each VM on disk, so that a daemon that starts anew finds the VMs that run on.
//!
//! `vms/INSTANCE/vm.json` is the record, and beside it `link-key.json` what the guest's root proves itself by; both are
//! the daemon's alone. `vms/INSTANCE/run/` is the VMM's folder. A record
//! is replaced in one step and synced before what it announces is done: a life is recorded as beginning before
//! its first process is started, so that a daemon that dies in between finds something to clean up.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use moorline_shared::InstanceId;
use moorline_shared::secret::SecretKey;
use serde::{Deserialize, Serialize};

use super::file::{self, Document, FileError, Head, failed};
use super::link_key;
use super::process::Identity;

/// The version of the record's form that this daemon writes. A changed form is a new version, and old ones stay
/// readable.
const VERSION: u32 = 1;
const FILE: &str = "vm.json";
const LINK_KEY: &str = "link-key.json";

/// What is known of an instance's VM beyond the daemon's own life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    version: u32,
    /// Whose VM.
    pub instance: InstanceId,
    /// The last life that was begun, whether or not it came to anything.
    pub incarnation: u64,
    /// Up to which reboot it has been rebooted.
    pub reboots: u64,
    /// How it is with that life.
    pub life: Life,
}

/// How it is with a life of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", deny_unknown_fields)]
pub enum Life {
    /// Its processes are being started; some may run.
    Beginning,
    /// It runs, or did when this was written.
    Running(Processes),
    /// It ended as wanted.
    Off,
    /// It ended without having been told to.
    Ended {
        /// Whether the guest did so or the host lost it.
        how: EndedBy,
        /// What a person is told of it.
        reason: String,
    },
}

/// Who ended a VM that nobody had told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndedBy {
    /// The guest powered itself off.
    #[serde(rename = "by_guest")]
    Guest,
    /// Its VMM ended or was killed.
    #[serde(rename = "lost")]
    Loss,
}

/// The processes of a running VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Processes {
    /// The host's boot in which they run, as in `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
    /// The VMM.
    pub vmm: Identity,
    /// The guest's way to the host.
    pub vsock: Vsock,
}

/// A VM's vsock device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "device", deny_unknown_fields)]
pub enum Vsock {
    /// The kernel's; the guest is known by its CID.
    Kernel {
        /// Leased for this life.
        cid: u32,
    },
    /// A process beside the VMM, at whose socket in the VMM's folder the guest's connections arrive.
    Process {
        /// That process.
        process: Identity,
    },
}

impl Record {
    /// A record in the form of today.
    pub fn new(instance: InstanceId, incarnation: u64, reboots: u64, life: Life) -> Self {
        Self {
            version: VERSION,
            instance,
            incarnation,
            reboots,
            life,
        }
    }
}

impl Document for Record {
    fn head(&self) -> Head {
        let Self {
            version, instance, ..
        } = *self;
        Head { version, instance }
    }
}

/// The folder with a folder for each instance's VM.
#[derive(Clone, Debug)]
pub struct Records {
    folder: PathBuf,
}

/// Held by the one daemon whose VMs these are.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Who may look into the folder of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The daemon's user only: the VMM runs as the same user.
    Daemon,
    /// This user gets through to the VMM's folder, and owns that.
    User(u32),
}

impl Records {
    /// The folder `vms` beneath the daemon's state folder; created where it is missing. The VMs' users get through it and
    /// can't list it.
    pub fn open(state: &Path) -> Result<Self, FileError> {
        let folder = file::folder(state.join("vms"))?;
        Ok(Self { folder })
    }

    /// Keeps every other daemon away from these records, and so from the VMs. Fails if another one holds the lock.
    pub fn lock(&self) -> Result<Lock, FileError> {
        let path = self.folder.join("lock");
        let file = File::create(&path).map_err(failed("open", &path))?;
        let locked = file.try_lock().map_err(io::Error::from);
        locked.map_err(failed("lock", &path))?;
        Ok(Lock { _file: file })
    }

    /// The folder of an instance's VM.
    pub fn folder(&self, instance: InstanceId) -> PathBuf {
        self.folder.join(instance.to_string())
    }

    /// The folder in which the instance's VMM works. What lies in it is not to be trusted.
    pub fn run_folder(&self, instance: InstanceId) -> PathBuf {
        self.folder(instance).join("run")
    }

    /// The user whose the VMM's folder is, if there is one.
    pub fn user(&self, instance: InstanceId) -> Option<u32> {
        use std::os::unix::fs::MetadataExt;
        let folder = fs::symlink_metadata(self.run_folder(instance)).ok()?;
        Some(folder.uid())
    }

    /// The instances that have a folder, in no order. What has another name is not ours and stays.
    pub fn instances(&self) -> Result<Vec<InstanceId>, FileError> {
        let entries = fs::read_dir(&self.folder).map_err(failed("list", &self.folder))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter_map(|name| name.parse().ok()).collect())
    }

    /// Fails with [`FileError::Newer`] if a newer release has left the record of a VM, or its link key. Nothing is touched.
    pub fn know_all(&self) -> Result<(), FileError> {
        self.instances()?.into_iter().try_for_each(|instance| {
            file::know(&self.path(instance), VERSION)?;
            link_key::know(&self.link_key_path(instance))
        })
    }

    /// The record of an instance's VM, if there is one. One that is damaged is set aside and is an error once.
    pub fn load(&self, instance: InstanceId) -> Result<Option<Record>, FileError> {
        let version = VERSION;
        file::load(&self.path(instance), Head { version, instance })
    }

    /// Makes the folders of an instance's VM where they are missing, for its user alone.
    pub fn prepare(&self, instance: InstanceId, reach: Reach) -> Result<(), FileError> {
        let folder = self.folder(instance);
        let run = self.run_folder(instance);
        let mode = match reach {
            Reach::Daemon => 0o700,
            Reach::User(_) => 0o711,
        };
        make_folder(&folder, mode)?;
        make_folder(&run, 0o700)?;
        if let Reach::User(user) = reach {
            std::os::unix::fs::lchown(&run, Some(user), Some(user)).map_err(failed("hand over", &run))?;
        }
        Ok(())
    }

    /// Keeps a record, in one step and on disk when this returns. The instance's folder must be there. Cancelled, it is
    /// done all the same.
    pub async fn keep(&self, record: Record) -> Result<(), FileError> {
        file::keep(self.path(record.instance), record).await
    }

    /// Removes all that is kept of an instance's VM; it is fine if there is nothing. Cancelled, it is done all the same.
    pub async fn discard(&self, instance: InstanceId) -> Result<(), FileError> {
        file::discard(self.folder(instance)).await
    }

    /// Keeps the link key that the guest is given for this life. The instance's folder must be there. Cancelled, it is
    /// done all the same.
    pub async fn keep_link_key(
        &self,
        instance: InstanceId,
        incarnation: u64,
        key: SecretKey,
    ) -> Result<(), FileError> {
        link_key::keep(self.link_key_path(instance), instance, incarnation, key).await
    }

    /// The link key that the guest was given for this life, if it was.
    pub fn link_key(&self, instance: InstanceId, incarnation: u64) -> Result<Option<SecretKey>, FileError> {
        link_key::load(&self.link_key_path(instance), instance, incarnation)
    }

    /// Removes the link key of a life that ended; it is fine if there is none. Cancelled, it is done all the same.
    pub async fn discard_link_key(&self, instance: InstanceId) -> Result<(), FileError> {
        file::discard(self.link_key_path(instance)).await
    }

    fn link_key_path(&self, instance: InstanceId) -> PathBuf {
        self.folder(instance).join(LINK_KEY)
    }

    fn path(&self, instance: InstanceId) -> PathBuf {
        self.folder(instance).join(FILE)
    }
}

fn make_folder(path: &Path, mode: u32) -> Result<(), FileError> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("create", path)(error));
        }
        _ => (),
    }
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed("set the mode of", path))
}

#[cfg(test)]
mod tests {
    use super::{EndedBy, Life, Processes, Reach, Record, Records, Vsock};
    use crate::vm::file::FileError;
    use crate::vm::process::Identity;
    use moorline_shared::InstanceId;
    use std::os::unix::fs::PermissionsExt;

    const INSTANCE: InstanceId = InstanceId::from_bytes([7; 16]);

    fn records() -> (tempfile::TempDir, Records) {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        records.prepare(INSTANCE, Reach::Daemon).unwrap();
        (folder, records)
    }

    fn lives() -> [Life; 5] {
        let process = Identity { pid: 7, started: 77 };
        let running = |vsock| {
            Life::Running(Processes {
                boot: "7f0c".to_owned(),
                vmm: process,
                vsock,
            })
        };
        [
            Life::Beginning,
            running(Vsock::Kernel { cid: 7 }),
            running(Vsock::Process { process }),
            Life::Off,
            Life::Ended {
                how: EndedBy::Guest,
                reason: "the guest powered off".to_owned(),
            },
        ]
    }

    #[tokio::test]
    async fn what_was_saved_is_loaded() {
        let (_folder, records) = records();
        assert_eq!(records.load(INSTANCE).unwrap(), None);
        for life in lives() {
            let record = Record::new(INSTANCE, 3, 1, life);
            records.keep(record.clone()).await.unwrap();
            assert_eq!(records.load(INSTANCE).unwrap(), Some(record));
        }
        assert_eq!(records.instances().unwrap(), [INSTANCE]);
        records.discard(INSTANCE).await.unwrap();
        records.discard(INSTANCE).await.unwrap();
        assert_eq!(records.instances().unwrap(), []);
    }

    #[test]
    fn the_form_of_version_1_stays() {
        let forms: Vec<_> = lives()
            .into_iter()
            .map(|life| Record::new(INSTANCE, 3, 1, life))
            .collect();
        insta::assert_json_snapshot!(forms);
    }

    #[test]
    fn what_is_not_a_record_is_named_and_set_aside() {
        let (_folder, records) = records();
        let path = records.folder(INSTANCE).join("vm.json");
        let other = Record::new(InstanceId::from_bytes([8; 16]), 1, 0, Life::Off);
        let none = r#"{"version":0,"instance":"i-07070707070707070707070707070707","incarnation":1,"reboots":0,"life":{"state":"off"}}"#;
        let contents = [
            String::new(),
            "{\"version\":1".to_owned(),
            "\u{0}\u{0}".to_owned(),
            "x".repeat(100_000),
            none.to_owned(),
            serde_json::to_string(&other).unwrap(),
        ];
        for content in &contents {
            std::fs::write(&path, content).unwrap();
            let error = records.load(INSTANCE).unwrap_err();
            let FileError::Corrupt { aside, .. } = &error else {
                panic!("{error:?}");
            };
            assert_eq!(std::fs::read(aside).unwrap(), content.as_bytes());
            assert!(error.to_string().contains("vm.json"), "{error}");
            assert_eq!(records.load(INSTANCE).unwrap(), None, "it is an error once");
        }
    }

    #[tokio::test]
    async fn nobody_else_gets_into_the_folders() {
        let (_folder, records) = records();
        let record = Record::new(INSTANCE, 1, 0, Life::Beginning);
        records.keep(record).await.unwrap();
        let mode = |path: std::path::PathBuf| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(records.folder.clone()), 0o711);
        assert_eq!(mode(records.folder(INSTANCE)), 0o700);
        assert_eq!(mode(records.run_folder(INSTANCE)), 0o700);
        assert_eq!(mode(records.folder(INSTANCE).join("vm.json")), 0o600);
        records.prepare(INSTANCE, Reach::Daemon).unwrap();
        assert_eq!(records.load(INSTANCE).unwrap().unwrap().incarnation, 1);
    }
}
