//! Where the host's identity is kept, beneath the daemon's state: readable by its owner alone, and each file replaced as
//! a whole.
//!
//! | file | what it is |
//! |---|---|
//! | `identity.pem` | The certificate and its key: one file, since neither is of use without the other. |
//! | `first-key.pem`, `next-key.pem` | The key of a certificate that was asked for by a token, or by the certificate before, and that has not come. Asking again has to be done with the same one. |
//! | `ca.pem` | The certificate that the control plane is known by. |
//! | `enrolment.json` | Which host this is, and where the control plane is. |

use std::fs::{self, DirBuilder};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use moorline_client::{Authority, AuthorityError, BaseUrl};
use moorline_shared::HostId;
use rcgen::KeyPair;
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

/// A key for which a certificate is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    /// By the token of an enrolment.
    First,
    /// By the certificate before.
    Next,
}

impl Pending {
    const ALL: [Self; 2] = [Self::First, Self::Next];

    const fn file(self) -> &'static str {
        match self {
            Self::First => "first-key.pem",
            Self::Next => "next-key.pem",
        }
    }
}

/// Which host this machine was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// Its name.
    pub host: HostId,
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
        "this machine is not enrolled: make a token with 'moorline host enroll-token NAME', and give it to \
         'moorline-host enroll TOKEN --state {}'", state.display()
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

    /// Which host this machine is.
    pub fn enrolment(&self) -> Result<Enrolment, FileError> {
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
    pub(super) fn pending_key(&self, pending: Pending) -> Result<KeyPair, FileError> {
        let path = self.path(pending.file());
        if let Some(text) = read(&path)? {
            return KeyPair::from_pem(&text).map_err(damaged(&path));
        }
        let key = key::make()?;
        self.write(pending.file(), &Zeroizing::new(key.serialize_pem()))?;
        Ok(key)
    }

    /// Forgets the keys that certificates were asked for with: one is in use now, and the other of no use.
    fn forget_pending(&self) -> Result<(), FileError> {
        for pending in Pending::ALL {
            let path = self.path(pending.file());
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(failed(&path, "removed")(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Keeps a certificate and its key instead of those before.
    pub(super) fn keep(&self, certificate: &str, key: &KeyPair) -> Result<Present, FileError> {
        let path = self.path(IDENTITY);
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(damaged(&path))?;
        // What doesn't belong together must not replace what does.
        let present = Present::new(der, key::der(key));
        let present = present.map_err(|error: IdentityError| damaged(&path)(error))?;
        let both = Zeroizing::new(format!("{certificate}{}", key.serialize_pem()));
        self.write(IDENTITY, &both)?;
        self.forget_pending()?;
        Ok(present)
    }

    /// Keeps which host this is, and whom the control plane is known by.
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
