//! Makes this machine a host, by a token that an operator made.

use std::path::{Path, PathBuf};

use moorline_client::{
    Authority, AuthorityDigest, BaseUrl, BaseUrlError, Client, ClientError, Endpoint, Retries, Trust,
    fresh_key,
};
use moorline_shared::HostId;
use moorline_shared::api::enrolment::{EnrolHost, HostCertificateIssued};
use moorline_shared::enrolment::EnrolmentToken;
use rcgen::KeyPair;

use super::Present;
use super::files::{Enrolment, FileError, Files};
use super::key::{self, KeyError};
use crate::vm::record::{Lock, Records};

/// What becomes of the identity of another host that the machine has already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Former {
    /// The machine stays that host.
    Keep,
    /// The machine is that host no more.
    Replace,
}

/// Why a machine didn't become a host.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The token's address is none.
    #[error("the enrolment token names no control plane; make another one")]
    Url(#[from] BaseUrlError),
    /// A daemon may be at work with the identity that would be replaced.
    #[error(
        "the daemon's state in {} can't be locked: if moorline-host runs, end it first, and start it again afterwards",
        state.display()
    )]
    Locked {
        /// The folder of its state.
        state: PathBuf,
        /// Why not.
        #[source]
        source: crate::vm::FileError,
    },
    /// The machine is another host.
    #[error(
        "this machine is host {former}, and the token is for {wanted}: to have it be {wanted} instead, add --replace"
    )]
    OtherHost {
        /// What it is.
        former: HostId,
        /// What it would be.
        wanted: HostId,
    },
    /// The control plane can't be reached, is another one, or refuses.
    #[error("the control plane didn't enrol this machine")]
    Asked(#[from] ClientError),
    /// Its answer doesn't fit the token.
    #[error("the control plane answered with another authority than the token names")]
    OtherAuthority,
    /// The identity can't be kept.
    #[error(transparent)]
    Files(#[from] FileError),
    /// There is no key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Makes a key beneath `state`, has it certified by the control plane that the token names, and keeps both there. If the
/// answer is lost, the same again gets the same. No daemon may work with `state` meanwhile; until all is kept, what was
/// there before stays.
///
/// The control plane is known by the digest in the token: any other is told nothing.
///
/// # Errors
/// [`EnrolError`]; the token is used up only if the control plane has made this machine the host.
pub async fn enrol(token: &EnrolmentToken, state: &Path, former: Former) -> Result<Present, EnrolError> {
    let (kept, files) = (Files::of(state), Files::of_enrolment(state));
    files.make()?;
    let _alone = alone(state)?;
    may_become(&token.host, &kept, former)?;
    let key = files.next_key()?;
    let issued = ask(token, &key).await?;
    let enrolment = Enrolment {
        url: token.url.clone(),
    };
    files.keep_enrolment(&enrolment, &issued.authority)?;
    let present = files.keep(&token.host, &issued.certificate, &key)?;
    files.replace(&kept)?;
    Ok(present)
}

/// Keeps daemons away: one that renews would put the certificate of the host before beside what this one was told.
fn alone(state: &Path) -> Result<Lock, EnrolError> {
    let lock = Records::open(state).and_then(|records| records.lock());
    lock.map_err(|source| EnrolError::Locked {
        state: state.to_owned(),
        source,
    })
}

fn may_become(wanted: &HostId, kept: &Files, former: Former) -> Result<(), EnrolError> {
    match (former, kept.present()) {
        (Former::Keep, Ok(present)) if present.host() != wanted => Err(EnrolError::OtherHost {
            former: present.host().clone(),
            wanted: wanted.clone(),
        }),
        // What is not there or can't be used is no host's any more.
        _ => Ok(()),
    }
}

async fn ask(token: &EnrolmentToken, key: &KeyPair) -> Result<HostCertificateIssued, EnrolError> {
    let digest = AuthorityDigest::from(token.authority);
    let body = EnrolHost {
        secret: token.secret.clone(),
        request: key::request(key)?,
    };
    let client = client(token.url.parse()?, digest)?;
    let issued = client.enrol_host(&token.host, &body, &fresh_key()).await?;
    let authority = Authority::from_pem(issued.authority.as_bytes());
    if authority.is_none_or(|authority| authority.digest() != digest) {
        return Err(EnrolError::OtherAuthority);
    }
    Ok(issued)
}

fn client(url: BaseUrl, digest: AuthorityDigest) -> Result<Client, ClientError> {
    let trust = Trust::Digest(digest);
    Client::new(
        Endpoint::without_token(url)
            .trusting(trust)
            .retrying(Retries::INTERACTIVE),
    )
}

#[cfg(test)]
mod tests;
