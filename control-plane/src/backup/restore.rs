//! Makes the state folder of a control plane of a backup.

use std::fs::{DirEntry, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};

use moorline_shared::{Digest, Revision, Timestamp};
use sha2::{Digest as _, Sha256};

use super::{CHUNK, Header, HeaderError, STORE_FILE, Unfinished};
use crate::config::Config;
use crate::identity::master::{MasterKey, MasterKeyError};
use crate::store::OpenError;
use crate::store::sqlite::{Detached, lock_alone};

/// What may be in the folder already: what no backup has, what is made anew by itself, and what an attempt left behind.
const MAY_BE_THERE: [&str; 8] = [
    "master.key",
    "admin.token",
    "ca.pem",
    "store.db.lock",
    "store.db.restoring",
    "store.db.restoring-journal",
    "store.db.restoring-wal",
    "store.db.restoring-shm",
];

/// The last epoch that can be given: readers of JSON keep numbers exact up to 2^53.
const LAST_EPOCH: u64 = 1 << 53;

/// Whether the master key must be there, and the right one, before anything is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyCheck {
    /// It must.
    Now,
    /// It comes later: systemd gives it to the service alone.
    AtStart,
}

/// What a restore is held to, beside the backup.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Whether the master key must be there.
    pub key: KeyCheck,
    /// An epoch that was given out before, which the backup doesn't know of: the new one is later.
    pub epoch_after: Option<u64>,
    /// The time of day.
    pub now: Timestamp,
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// What the backup said of itself.
    pub header: Header,
    /// Where the store begins again.
    pub revision: Revision,
}

/// Why nothing was restored. The folder is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is no backup that this release reads.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// It is another deployment's.
    #[error(
        "the backup is of the deployment '{of}', and the configuration is of '{configured}': give the configuration that \
         it had with --config"
    )]
    Deployment {
        /// Whose it is.
        of: String,
        /// What the configuration says.
        configured: String,
    },
    /// The master key isn't there.
    #[error(
        "master key {}: it isn't there, and without it no secret in the backup opens: put it back first, or say \
         --key-at-start if systemd gives it to the service",
        path.display()
    )]
    NoKey {
        /// Where it should be.
        path: PathBuf,
    },
    /// The master key is another one.
    #[error(
        "master key {}: it is {found}, and the backup's secrets are sealed with {wanted}: put the right one back",
        path.display()
    )]
    OtherKey {
        /// The file.
        path: PathBuf,
        /// The name of the key in it.
        found: String,
        /// The name of the key that is wanted.
        wanted: String,
    },
    /// The master key can't be read.
    #[error(transparent)]
    Key(#[from] MasterKeyError),
    /// There is a state already.
    #[error(
        "state {}: it has '{found}', and a backup is restored into an empty folder only: stop the control plane, move \
         everything but master.key away, and keep it until the restored one is well",
        path.display()
    )]
    NotEmpty {
        /// The folder.
        path: PathBuf,
        /// What is in it.
        found: String,
    },
    /// A control plane runs there.
    #[error("state {}: a control plane runs on it: stop that first (systemctl stop moorline-control)", path.display())]
    Running {
        /// The folder.
        path: PathBuf,
    },
    /// The clock is wrong, and the new epoch would be of its time.
    #[error(
        "the clock stands at {now}, and the backup was taken at {taken_at}: set the clock first (timedatectl set-ntp true), \
         for hosts and guests take nothing of an epoch that is before one that they have seen, and the new one is of this \
         clock's time. If the clock is right, say --epoch-after with the highest epoch that a host has seen: the number \
         before the dot of the cursor in its log"
    )]
    Clock {
        /// What the clock says.
        now: Timestamp,
        /// When the backup was taken.
        taken_at: Timestamp,
    },
    /// No epoch is left that is later.
    #[error(
        "--epoch-after {after}: no epoch is later than {LAST_EPOCH}; say the highest that a host has seen"
    )]
    Epoch {
        /// What was asked for.
        after: u64,
    },
    /// The folder can't be used.
    #[error("state {}: it can't be written; check that this user may write there and that the disk has room", path.display())]
    State {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The backup can't be read to its end.
    #[error("the backup can't be read")]
    Read(#[source] io::Error),
    /// Its end is missing, or there is more than its header says.
    #[error(
        "the backup is {found} bytes long behind its header, and must be {wanted}: it was cut off; take another copy of it"
    )]
    Length {
        /// How long it is.
        found: u64,
        /// How long it was when it was taken.
        wanted: u64,
    },
    /// It isn't what was taken.
    #[error("the backup is damaged: its digest is another than when it was taken; take another copy of it")]
    Damaged,
    /// What is in it is no store.
    #[error(transparent)]
    Store(#[from] OpenError),
}

/// Restores the backup that `from` gives into the configuration's state folder, which is made if it isn't there.
///
/// Blocks. Nothing is there under the store's name before the backup was read to its end and found whole. One that was cut
/// off, however that came about, can be done again.
pub fn restore(config: &Config, mut from: impl Read, terms: &Terms) -> Result<Restored, RestoreError> {
    let header = Header::read(&mut from)?;
    if header.deployment != config.deployment {
        return Err(RestoreError::Deployment {
            of: header.deployment,
            configured: config.deployment.clone(),
        });
    }
    check_epoch(terms, &header)?;
    empty(&config.state)?;
    if terms.key == KeyCheck::Now {
        check_key(&config.master_key(), &header)?;
    }
    let failed = |source| RestoreError::State {
        path: config.state.clone(),
        source,
    };
    std::fs::create_dir_all(&config.state).map_err(failed)?;
    let store = config.state.join(STORE_FILE);
    let lock = lock_alone(&store)?;
    // Whatever becomes of the rest, the service can begin on this folder.
    give(&config.state, &[&lock]).map_err(failed)?;
    let (unfinished, file) = Unfinished::make(config.state.join("store.db.restoring")).map_err(failed)?;
    receive(&header, from, &file, &config.state)?;
    // Later than the time that was judged, too: the clock may have been set back since.
    let judged = u64::try_from(terms.now.millis()).unwrap_or_default();
    let after = terms.epoch_after.unwrap_or_default().max(judged);
    let revision = Detached::open(unfinished.path())?.begin_epoch(after)?;
    give(&config.state, &[&file])
        .and_then(|()| unfinished.finish(&store))
        .map_err(failed)?;
    Ok(Restored { header, revision })
}

/// Whether the new epoch will be later than all that were given out before, as far as anybody can know: one that was
/// before the backup is in it, and after it another restore may have given out any up to the present time.
fn check_epoch(terms: &Terms, header: &Header) -> Result<(), RestoreError> {
    let (now, taken_at) = (terms.now, header.taken_at);
    match terms.epoch_after {
        None if now < taken_at => Err(RestoreError::Clock { now, taken_at }),
        Some(after) if after >= LAST_EPOCH => Err(RestoreError::Epoch { after }),
        _ => Ok(()),
    }
}

/// Whether nothing is in the folder that would be lost or mixed up.
fn empty(state: &Path) -> Result<(), RestoreError> {
    let path = state.to_owned();
    let files = match list(state) {
        Ok(files) => files,
        Err(source) => return Err(RestoreError::State { path, source }),
    };
    let has_lock = |file: &DirEntry| file.file_name() == "store.db.lock" && may_stay(file);
    if files.iter().any(has_lock) {
        lock_alone(&state.join(STORE_FILE)).map_err(|error| match error {
            OpenError::InUse { .. } => RestoreError::Running { path: path.clone() },
            other => other.into(),
        })?;
    }
    match files.iter().find(|file| !may_stay(file)) {
        Some(found) => Err(RestoreError::NotEmpty {
            path,
            found: found.file_name().to_string_lossy().into_owned(),
        }),
        None => Ok(()),
    }
}

/// What is in the folder; nothing if there is none.
fn list(folder: &Path) -> io::Result<Vec<DirEntry>> {
    match std::fs::read_dir(folder) {
        Ok(files) => files.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Whether a file may be there. One of the store's that is a link may not: root may be the one who restores, and whoever
/// has the folder must not have it write somewhere else.
fn may_stay(file: &DirEntry) -> bool {
    let name = file.file_name();
    let is_link = file.file_type().is_ok_and(|kind| kind.is_symlink());
    let leads_away = is_link && name.as_encoded_bytes().starts_with(STORE_FILE.as_bytes());
    MAY_BE_THERE.iter().any(|known| name == *known) && !leads_away
}

fn check_key(path: &Path, header: &Header) -> Result<(), RestoreError> {
    let Some(wanted) = &header.master_key else {
        return Ok(());
    };
    let path = path.to_owned();
    if !path.exists() {
        return Err(RestoreError::NoKey { path });
    }
    let found = MasterKey::open(&path)?.name();
    if found == *wanted {
        return Ok(());
    }
    let wanted = wanted.clone();
    Err(RestoreError::OtherKey { path, found, wanted })
}

/// Writes the content into a file, and sees whether it is what was taken.
fn receive(header: &Header, from: impl Read, mut to: &File, state: &Path) -> Result<(), RestoreError> {
    let failed = |source| RestoreError::State {
        path: state.to_owned(),
        source,
    };
    let (mut hash, mut chunk, mut found) = (Sha256::new(), vec![0; CHUNK], 0);
    // One byte more than there should be shows that there is more.
    let mut from = from.take(header.bytes.saturating_add(1));
    loop {
        let read = from.read(&mut chunk).map_err(RestoreError::Read)?;
        if read == 0 {
            break;
        }
        hash.update(&chunk[..read]);
        to.write_all(&chunk[..read]).map_err(failed)?;
        found += read as u64;
    }
    to.sync_all().map_err(failed)?;
    let wanted = header.bytes;
    if found != wanted {
        return Err(RestoreError::Length { found, wanted });
    }
    let digest: [u8; 32] = hash.finalize().into();
    if Digest::from(digest) != header.digest {
        return Err(RestoreError::Damaged);
    }
    Ok(())
}

/// Makes the files those of the folder's owner, who runs the control plane: root may be the one who restores.
fn give(folder: &Path, files: &[&File]) -> io::Result<()> {
    let owner = std::fs::metadata(folder)?;
    for file in files {
        if file.metadata()?.uid() != owner.uid() {
            fchown(file, Some(owner.uid()), Some(owner.gid()))?;
        }
    }
    Ok(())
}
