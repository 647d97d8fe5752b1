//! Makes this machine a host, by a token that an operator made.

use std::path::Path;

use moorline_client::{
    Authority, AuthorityDigest, BaseUrl, BaseUrlError, Client, ClientError, Endpoint, Retries, Trust,
    fresh_key,
};
use moorline_shared::api::enrolment::EnrolHost;
use moorline_shared::enrolment::EnrolmentToken;

use super::files::{Enrolment, FileError, Files, Pending};
use super::key::{self, KeyError};
use crate::identity::Present;

/// Why a machine didn't become a host.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The token's address is none.
    #[error("the enrolment token names no control plane; make another one")]
    Url(#[from] BaseUrlError),
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
/// answer is lost, the same again gets the same.
///
/// The control plane is known by the digest in the token: any other is told nothing.
///
/// # Errors
/// [`EnrolError`]; the token is used up only if the control plane has made this machine the host.
pub async fn enrol(token: &EnrolmentToken, state: &Path) -> Result<Present, EnrolError> {
    let files = Files::of(state);
    files.make()?;
    let digest = AuthorityDigest::from(token.authority);
    let client = client(token.url.parse()?, digest)?;
    let key = files.pending_key(Pending::First)?;
    let body = EnrolHost {
        secret: token.secret.clone(),
        request: key::request(&key)?,
    };
    let issued = client.enrol_host(&token.host, &body, &fresh_key()).await?;
    let authority = Authority::from_pem(issued.authority.as_bytes());
    if authority.is_none_or(|authority| authority.digest() != digest) {
        return Err(EnrolError::OtherAuthority);
    }
    let enrolment = Enrolment {
        host: token.host.clone(),
        url: token.url.clone(),
    };
    files.keep_enrolment(&enrolment, &issued.authority)?;
    Ok(files.keep(&issued.certificate, &key)?)
}

fn client(url: BaseUrl, digest: AuthorityDigest) -> Result<Client, ClientError> {
    let trust = Trust::Digest(digest);
    Client::new(
        Endpoint::without_token(url)
            .trusting(trust)
            .retrying(Retries::INTERACTIVE),
    )
}
