//! Where the host's identity is kept, in the folder `identity` beneath the daemon's state: readable by its owner alone,
//! and each file replaced as a whole.
//!
//! | file | what it is |
//! |---|---|
//! | `identity.pem` | The certificate, which says which host this is, and its key: one file, since neither is of use without the other. |
//! | `next-key.pem` | The key of a certificate that was asked for and has not come. Asking again has to be done with the same one. |
//! | `ca.pem` | The certificate that the control plane is known by. |
//! | `enrolment.json` | Where the control plane is. |
//!
//! An enrolment makes all of them in the folder `identity.next`, which then takes the place of the other in one step:
//! never is one host's certificate beside what another one was told.

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use moorline_client::{Authority, AuthorityError, BaseUrl};
use moorline_shared::HostId;
use rcgen::KeyPair;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::key::{self, KeyError};
use super::{IdentityError, Present};
use crate::durable;

const IDENTITY: &str = "identity.pem";
const AUTHORITY: &str = "ca.pem";
const ENROLMENT: &str = "enrolment.json";
const NEXT_KEY: &str = "next-key.pem";

/// What a machine was told when it was made a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// Where the control plane is.
    pub url: String,
}

/// The folder of a host's identity.
#[derive(Clone, Debug)]
pub struct Files {
    folder: PathBuf,
}

/// Why the host's identity can't be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The machine is no host yet.
    #[error(
        "this machine is not enrolled: make a token with 'moorline host enroll-token NAME', and give it to the standard \
         input of 'moorline-host enroll - --state {}'", state.display()
    )]
    NotEnrolled {
        /// The folder of the daemon's state.
        state: PathBuf,
    },
    /// A file can't be read or written.
    #[error("{}: it can't be {what}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{}: it is damaged; enrol the host again", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A certificate that came is not one that was asked for.
    #[error("the control plane gave a certificate that is of no use")]
    Unfit(#[source] IdentityError),
    /// The certificate of the control plane can't be read.
    #[error("whom to trust is not known; enrol the host again")]
    Authority(#[from] AuthorityError),
    /// A key can't be made.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl Files {
    /// Those beneath the folder of a daemon's state.
    pub fn of(state: &Path) -> Self {
        Self {
            folder: state.join("identity"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Those of an enrolment that is not at its end.
    pub(super) fn of_enrolment(state: &Path) -> Self {
        Self {
            folder: state.join("identity.next"),
        }
    }

    /// What this machine was told when it was made a host.
    fn enrolment(&self) -> Result<Enrolment, FileError> {
        let path = self.path(ENROLMENT);
        let Some(text) = read(&path)? else {
            let state = self.folder.parent().unwrap_or(&self.folder).to_owned();
            return Err(FileError::NotEnrolled { state });
        };
        serde_json::from_str(&text).map_err(damaged(&path))
    }

    /// Where the control plane is, as the enrolment has it.
    pub fn url(&self) -> Result<BaseUrl, FileError> {
        let url = self.enrolment()?.url;
        url.parse().map_err(damaged(&self.path(ENROLMENT)))
    }

    /// Whom the control plane is known by.
    pub fn authority(&self) -> Result<Authority, FileError> {
        Ok(Authority::read(&self.path(AUTHORITY))?)
    }

    /// The host's certificate and key.
    pub fn present(&self) -> Result<Present, FileError> {
        let path = self.path(IDENTITY);
        let missing = || std::io::Error::from(ErrorKind::NotFound);
        let text = read(&path)?.ok_or_else(missing).map_err(failed(&path, "read"))?;
        let certificate = CertificateDer::from_pem_slice(text.as_bytes()).map_err(damaged(&path))?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(damaged(&path))?;
        Present::new(certificate, key).map_err(damaged(&path))
    }

    /// The key that a certificate is asked for with: made now, unless it was asked for before.
    pub(super) fn next_key(&self) -> Result<KeyPair, FileError> {
        let path = self.path(NEXT_KEY);
        if let Some(text) = read(&path)? {
            return KeyPair::from_pem(&text).map_err(damaged(&path));
        }
        let key = key::make()?;
        self.write(NEXT_KEY, &Zeroizing::new(key.serialize_pem()))?;
        Ok(key)
    }

    /// Keeps the host's certificate and its key instead of those before, and has no next key any more.
    pub(super) fn keep(&self, host: &HostId, certificate: &str, key: &KeyPair) -> Result<Present, FileError> {
        let path = self.path(IDENTITY);
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(damaged(&path))?;
        let present = Present::new(der, key::der(key)).map_err(FileError::Unfit)?;
        // What is another's, or doesn't belong together, must not replace what does.
        if present.host() != host {
            return Err(FileError::Unfit(IdentityError::OtherHost));
        }
        let both = Zeroizing::new(format!("{certificate}{}", key.serialize_pem()));
        self.write(IDENTITY, &both)?;
        let next = self.path(NEXT_KEY);
        match fs::remove_file(&next) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(&next, "removed")(error)),
            _ => Ok(present),
        }
    }

    /// Keeps where the control plane is, and whom it is known by.
    pub(super) fn keep_enrolment(&self, enrolment: &Enrolment, authority: &str) -> Result<(), FileError> {
        self.write(AUTHORITY, authority)?;
        let path = self.path(ENROLMENT);
        let text = serde_json::to_string(enrolment).map_err(damaged(&path))?;
        self.write(ENROLMENT, &text)
    }

    /// Makes the folder, if it isn't there.
    pub(super) fn make(&self) -> Result<(), FileError> {
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&self.folder);
        made.map_err(failed(&self.folder, "made"))
    }

    /// Puts this folder in the place of `other`, in one step, and removes what was there.
    pub(super) fn replace(&self, other: &Self) -> Result<(), FileError> {
        let moved = failed(&other.folder, "replaced");
        match renameat_with(CWD, &self.folder, CWD, &other.folder, RenameFlags::EXCHANGE) {
            Err(Errno::NOENT) => fs::rename(&self.folder, &other.folder).map_err(&moved)?,
            exchanged => {
                exchanged.map_err(|error| moved(error.into()))?;
                fs::remove_dir_all(&self.folder).map_err(failed(&self.folder, "removed"))?;
            }
        }
        let above = other.folder.parent().unwrap_or(&other.folder);
        File::open(above)
            .and_then(|folder| folder.sync_all())
            .map_err(moved)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), FileError> {
        let path = self.path(name);
        let written = durable::replace(&path, |file| file.write_all(text.as_bytes()));
        written.map_err(failed(&path, "written"))
    }
}

fn read(path: &Path) -> Result<Option<Zeroizing<String>>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(Zeroizing::new(text))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, "read")(error)),
    }
}

fn failed(path: &Path, what: &'static str) -> impl Fn(std::io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io {
        path: path.clone(),
        what,
        source,
    }
}

fn damaged<E>(path: &Path) -> impl Fn(E) -> FileError + use<E>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let path = path.to_owned();
    move |source| FileError::Damaged {
        path: path.clone(),
        source: source.into(),
    }
}
