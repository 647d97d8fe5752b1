//! What the daemon keeps of each registration on disk, so that it holds through a restart of the daemon.

use std::fs;
use std::path::{Path, PathBuf};

use moorline_shared::InstanceId;
use moorline_shared::host::Channel;
use moorline_shared::secret::SecretKey;
use serde::{Deserialize, Serialize};

use super::Caller;
use crate::vm::file::{self, Document, FileError, Head, failed};
use crate::vm::link_key;
use crate::vm::process::Identity;

/// The version of the record's form that this daemon writes. The first one doesn't say who registered the VM.
const VERSION: u32 = 2;
const EXTENSION: &str = "json";
const LINK_KEY: &str = "key";

/// What is known of an instance whose VM somebody else runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    version: u32,
    /// Which instance.
    pub(super) instance: InstanceId,
    /// The last life that was begun.
    pub(super) incarnation: u64,
    /// The registration, while there is one.
    pub(super) active: Option<Active>,
}

/// A registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Active {
    /// The host's boot in which it was made: no VM outlives that.
    pub(super) boot: String,
    /// How the guest reaches the host, as it was registered.
    pub(super) channel: Channel,
    /// Who may connect where the channel is a socket.
    pub(super) peer: Peer,
    /// The VMM whose end ends the registration; absent for an unsupervised one.
    pub(super) vmm: Option<Identity>,
    /// The user who registered it; absent in records of the first version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) registrant: Option<u32>,
}

impl Active {
    /// Whether this user may take the registration back, or another's in its place.
    pub(super) fn is_of(&self, caller: Caller) -> bool {
        caller.uid == 0 || self.registrant.is_none_or(|registrant| registrant == caller.uid)
    }
}

/// Who may connect to a hybrid vsock socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Peer {
    /// This process.
    Process(Identity),
    /// This user: that of whoever registered the VM.
    User(u32),
}

impl Record {
    pub(super) fn new(instance: InstanceId, incarnation: u64, active: Option<Active>) -> Self {
        Self {
            version: VERSION,
            instance,
            incarnation,
            active,
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

/// The folder with a record for each instance whose VM somebody else runs.
#[derive(Clone, Debug)]
pub(super) struct Registrations {
    folder: PathBuf,
}

impl Registrations {
    /// The folder `external` beneath the daemon's state folder; created where it is missing.
    pub(super) fn open(state: &Path) -> Result<Self, FileError> {
        let folder = file::folder(state.join("external"))?;
        Ok(Self { folder })
    }

    fn path(&self, instance: InstanceId) -> PathBuf {
        self.folder.join(instance.to_string()).with_extension(EXTENSION)
    }

    /// The instances that have a record, in no order.
    pub(super) fn instances(&self) -> Result<Vec<InstanceId>, FileError> {
        let entries = fs::read_dir(&self.folder).map_err(failed("list", &self.folder))?;
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let ours = paths.filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION));
        Ok(ours
            .filter_map(|path| path.file_stem()?.to_str()?.parse().ok())
            .collect())
    }

    /// Fails with [`FileError::Newer`] if a newer release has left a record, or a link key. Nothing is touched.
    pub(super) fn know_all(&self) -> Result<(), FileError> {
        self.instances()?.into_iter().try_for_each(|instance| {
            file::know(&self.path(instance), VERSION)?;
            link_key::know(&self.link_key_path(instance))
        })
    }

    /// The record of an instance, if there is one. One that is damaged is set aside and is an error once.
    pub(super) fn load(&self, instance: InstanceId) -> Result<Option<Record>, FileError> {
        let version = VERSION;
        file::load(&self.path(instance), Head { version, instance })
    }

    /// Keeps a record; it is on disk when this returns. Cancelled, it is done all the same.
    pub(super) async fn keep(&self, record: Record) -> Result<(), FileError> {
        file::keep(self.path(record.instance), record).await
    }

    /// Keeps the link key that the guest is about to be given for this life. Cancelled, it is done all the same.
    pub(super) async fn keep_link_key(
        &self,
        instance: InstanceId,
        incarnation: u64,
        key: SecretKey,
    ) -> Result<(), FileError> {
        link_key::keep(self.link_key_path(instance), instance, incarnation, key).await
    }

    /// The link key that the guest was given for this life, if it was.
    pub(super) fn link_key(
        &self,
        instance: InstanceId,
        incarnation: u64,
    ) -> Result<Option<SecretKey>, FileError> {
        link_key::load(&self.link_key_path(instance), instance, incarnation)
    }

    /// Removes the link key of a life that ended; it is fine if there is none. Cancelled, it is done all the same.
    pub(super) async fn discard_link_key(&self, instance: InstanceId) -> Result<(), FileError> {
        file::discard(self.link_key_path(instance)).await
    }

    fn link_key_path(&self, instance: InstanceId) -> PathBuf {
        self.folder.join(instance.to_string()).with_extension(LINK_KEY)
    }

    /// Removes a record; it is fine if there is none. Cancelled, it is done all the same.
    pub(super) async fn discard(&self, instance: InstanceId) -> Result<(), FileError> {
        self.discard_link_key(instance).await?;
        file::discard(self.path(instance)).await
    }
}

#[cfg(test)]
mod tests {
    use super::{Active, Caller, Peer, Record, Registrations};
    use crate::vm::process::Identity;
    use moorline_shared::InstanceId;
    use moorline_shared::host::Channel;

    #[tokio::test]
    async fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let registrations = Registrations::open(folder.path()).unwrap();
        let instance = InstanceId::from_bytes([7; 16]);
        assert_eq!(registrations.load(instance).unwrap(), None);
        let vmm = Identity { pid: 7, started: 77 };
        let active = Active {
            boot: "7f0c".to_owned(),
            channel: Channel::Vsock { cid: 7 },
            peer: Peer::Process(vmm),
            vmm: Some(vmm),
            registrant: Some(1001),
        };
        for record in [
            Record::new(instance, 3, Some(active)),
            Record::new(instance, 3, None),
        ] {
            registrations.keep(record.clone()).await.unwrap();
            assert_eq!(registrations.load(instance).unwrap(), Some(record));
        }
        assert_eq!(registrations.instances().unwrap(), [instance]);
        registrations.discard(instance).await.unwrap();
        registrations.discard(instance).await.unwrap();
        assert_eq!(registrations.instances().unwrap(), []);
    }

    #[test]
    fn the_form_of_version_1_stays_readable_and_is_anybodys() {
        let folder = tempfile::tempdir().unwrap();
        let registrations = Registrations::open(folder.path()).unwrap();
        let instance = InstanceId::from_bytes([7; 16]);
        let first = r#"{"version":1,"instance":"i-07070707070707070707070707070707","incarnation":3,"active":
            {"boot":"7f0c","channel":{"vsock":{"cid":7}},"peer":{"user":1001},"vmm":null}}"#;
        std::fs::write(registrations.path(instance), first).unwrap();
        let active = registrations.load(instance).unwrap().unwrap().active.unwrap();
        assert!(active.is_of(Caller { uid: 1002 }));
        let later = Active {
            registrant: Some(1001),
            ..active
        };
        let may = [0, 1001, 1002].map(|uid| later.is_of(Caller { uid }));
        assert_eq!(may, [true, true, false]);
    }
}
