//! Takes a backup, while the control plane runs or stands still.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moorline_shared::{Digest, Timestamp};
use sha2::{Digest as _, Sha256};

use super::{CHUNK, Header, STORE_FILE, Unfinished, beside};
use crate::config::Config;
use crate::identity::authority::model::AuthorityRecord;
use crate::identity::master::MasterKey;
use crate::model::Record as _;
use crate::store::OpenError;
use crate::store::sqlite::Detached;

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// There is no store to take one of.
    #[error(
        "{}: there is no store; give the folder of the control plane's state with --state or its configuration with \
         --config, and run this as its user or as root",
        path.display()
    )]
    NoStore {
        /// Where it should be.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The store can't be copied.
    #[error("the store can't be copied to {}; check that there is room for another one", to.display())]
    Copy {
        /// Where the copy is made.
        to: PathBuf,
        /// What went wrong.
        source: OpenError,
    },
    /// It would lie among what the control plane works with, or replace that.
    #[error("{}: this is in the folder of the control plane's state; give another folder, best on another disk", path.display())]
    InState {
        /// Where it would lie.
        path: PathBuf,
    },
    /// A file can't be written.
    #[error("{}: it can't be written; check that the folder is there, that this user may write and that it has room", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Who reads the backup from the standard output has gone, or has no room.
    #[error("the backup can't be written to the standard output")]
    Output(#[source] io::Error),
}

/// Writes a backup into the file `to`, which is replaced once the backup is whole, or to `output` without one.
///
/// Blocks. A copy of the store is made first, beside `to` or in the folder of the state: for a while two are there.
pub fn take(
    config: &Config,
    to: Option<&Path>,
    output: impl Write,
    now: Timestamp,
) -> Result<Header, TakeError> {
    let store = config.state.join(STORE_FILE);
    if let Err(source) = File::open(&store) {
        return Err(TakeError::NoStore { path: store, source });
    }
    if let Some(path) = to.filter(|to| is_in(to, &config.state)) {
        let path = path.to_owned();
        return Err(TakeError::InState { path });
    }
    let copied_to = beside(to.unwrap_or(&store), ".copy");
    let write = |path: &Path, source| TakeError::Write {
        path: path.to_owned(),
        source,
    };
    let (aside, mut copy) = Unfinished::make(copied_to.clone()).map_err(|error| write(&copied_to, error))?;
    let header = copied(config, &store, &aside, &mut copy, now)?;
    let Some(to) = to else {
        put(&header, &mut copy, output).map_err(TakeError::Output)?;
        return Ok(header);
    };
    let whole = beside(to, ".new");
    let (unfinished, file) = Unfinished::make(whole).map_err(|error| write(to, error))?;
    put(&header, &mut copy, &file)
        .and_then(|()| file.sync_all())
        .and_then(|()| unfinished.finish(to))
        .map_err(|error| write(to, error))?;
    Ok(header)
}

/// Whether a file lies in a folder, or would, by whatever way.
fn is_in(file: &Path, folder: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    let above = file.parent().filter(|above| !above.as_os_str().is_empty());
    let above = real(above.unwrap_or(Path::new(".")));
    let (itself, folder) = (real(file), real(folder));
    let itself = itself.as_deref().and_then(Path::parent);
    folder.is_some() && (above == folder || itself == folder.as_deref())
}

/// Copies the store, and says what the copy is.
fn copied(
    config: &Config,
    store: &Path,
    aside: &Unfinished,
    copy: &mut File,
    now: Timestamp,
) -> Result<Header, TakeError> {
    let failed = |source| TakeError::Copy {
        to: aside.path().to_owned(),
        source,
    };
    let detached = Detached::copy(store, aside.path()).map_err(failed)?;
    let (bytes, digest) = measure(copy).map_err(|source| TakeError::Write {
        path: aside.path().to_owned(),
        source,
    })?;
    Ok(Header {
        build: concat!("moorline-control ", env!("CARGO_PKG_VERSION")).to_owned(),
        deployment: config.deployment.clone(),
        taken_at: now,
        revision: detached.revision().map_err(failed)?,
        schema: detached.schema(),
        master_key: master_key(&detached).map_err(failed)?,
        bytes,
        digest,
    })
}

/// The name of the master key, by what seals the certificate authority: every deployment has one.
fn master_key(store: &Detached) -> Result<Option<String>, OpenError> {
    let record = store.get(&AuthorityRecord::key(&()))?;
    let record: Option<AuthorityRecord> = record.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let sealed = record.and_then(|record| STANDARD.decode(record.material.sealed_key).ok());
    Ok(sealed.and_then(|sealed| MasterKey::sealed_with(&sealed)))
}

/// How long the file is, and its digest.
fn measure(file: &mut File) -> io::Result<(u64, Digest)> {
    file.rewind()?;
    let (mut hash, mut chunk, mut bytes) = (Sha256::new(), vec![0; CHUNK], 0);
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            let digest: [u8; 32] = hash.finalize().into();
            return Ok((bytes, digest.into()));
        }
        hash.update(&chunk[..read]);
        bytes += read as u64;
    }
}

fn put(header: &Header, copy: &mut File, mut to: impl Write) -> io::Result<()> {
    copy.rewind()?;
    to.write_all(&header.to_bytes())?;
    io::copy(copy, &mut to)?;
    to.flush()
}
