//! The authority at the start of the control plane: the one that is kept, or a new one.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moorline_shared::{Digest, OperationId};

use super::issue::{Authority, IssueError};
use super::model::{AuthorityRecord, Material, Model, Op};
use crate::identity::master::{MasterKey, Purpose, UnsealError};
use crate::model::{Attempt, ExecuteError, Executor, Record as _};
use crate::services;
use crate::store::ReadError;

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// What is kept can't be read.
    #[error("the certificate authority can't be read")]
    Read(#[from] ReadError),
    /// A new one can't be kept.
    #[error("the certificate authority can't be kept")]
    Keep(#[from] ExecuteError),
    /// Its key doesn't open.
    #[error("the certificate authority's key doesn't open")]
    Unseal(#[from] UnsealError),
    /// What is kept is no authority.
    #[error("the certificate authority in the store is damaged")]
    Damaged(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No certificate can be made.
    #[error("the certificate authority can't be made")]
    Issue(#[from] IssueError),
    /// Its certificate can't be written for clients of this machine.
    #[error("{}: it can't be written; check that this user may write there", path.display())]
    Publish {
        /// The file.
        path: std::path::PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// The deployment's authority. If it has none yet, one is made and kept; of several processes that do so at once, one
/// wins and all have its authority.
pub async fn adopt(executor: &Executor, master: &MasterKey, domain: &str) -> Result<Authority, AdoptError> {
    let store = executor.store();
    let head = store.head().await?;
    let material = match store.get(head, &AuthorityRecord::key(&())).await? {
        Some(kept) => {
            let record: Result<AuthorityRecord, _> = serde_json::from_slice(&kept.value);
            record
                .map_err(|error| AdoptError::Damaged(error.into()))?
                .material
        }
        None => keep(executor, make(executor, master, domain)?).await?,
    };
    opened(material, master)
}

/// Writes the authority's certificate where clients on this machine find it.
pub fn publish(authority: &Authority, path: &Path) -> Result<(), AdoptError> {
    let pem = authority.pem();
    if std::fs::read_to_string(path).is_ok_and(|there| there == pem) {
        return Ok(());
    }
    std::fs::write(path, pem).map_err(|source| AdoptError::Publish {
        path: path.to_owned(),
        source,
    })
}

fn make(executor: &Executor, master: &MasterKey, domain: &str) -> Result<Material, AdoptError> {
    let (authority, key) = Authority::make(domain, executor.now())?;
    let digest = authority.digest();
    // The key was made a moment ago and is sealed once, so that nothing more is needed to make the nonce its own.
    let sealed = master.seal(Purpose::Authority, digest.bytes(), b"", &key);
    Ok(Material {
        domain: domain.to_owned(),
        certificate: STANDARD.encode(authority.certificate()),
        sealed_key: STANDARD.encode(sealed),
    })
}

async fn keep(executor: &Executor, made: Material) -> Result<Material, AdoptError> {
    let id = OperationId::from(Digest::of_parts([
        b"AdoptAuthority".as_slice(),
        made.certificate.as_bytes(),
    ]));
    let attempt = Attempt::new(Op::AdoptAuthority(made), services::provider("control"), id);
    Ok(executor.execute(&Model, attempt).await?.reply)
}

fn opened(material: Material, master: &MasterKey) -> Result<Authority, AdoptError> {
    let bytes = |text: &str| {
        STANDARD
            .decode(text)
            .map_err(|error| AdoptError::Damaged(error.into()))
    };
    let (certificate, sealed) = (bytes(&material.certificate)?, bytes(&material.sealed_key)?);
    let key = master.unseal(Purpose::Authority, Digest::of(&certificate).bytes(), &sealed)?;
    Ok(Authority::restore(material.domain, certificate, &key)?)
}
