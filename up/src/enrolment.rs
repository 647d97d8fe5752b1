//! Makes this machine the host of its own control plane, once.

use std::path::Path;

use moorline_client::{
    Authority, AuthorityError, BaseUrl, Client, ClientError, Endpoint, LocalDeployment, Retries, Token,
    TokenError, Trust, fresh_key,
};
use moorline_host::identity::enrol::{EnrolError, Former, enrol};
use moorline_host::identity::files::{FileError, Files};
use moorline_shared::HostId;
use moorline_shared::api::enrolment::CreateEnrolmentToken;
use moorline_shared::enrolment::EnrolmentToken;
use moorline_shared::secret::SecretKey;

/// Why the machine is not a host of its control plane.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The control plane is not known by a certificate.
    #[error("the control plane's certificate can't be read")]
    Authority(#[from] AuthorityError),
    /// Nobody may make a token for the machine.
    #[error("the administrator's token can't be read")]
    Token(#[from] TokenError),
    /// The control plane gives no token for it.
    #[error("the control plane made no enrolment token")]
    Asked(#[from] ClientError),
    /// It was not enrolled with one.
    #[error(transparent)]
    Enrolled(#[from] EnrolError),
    /// What it is known by can't be read.
    #[error(transparent)]
    Files(#[from] FileError),
}

/// Which host this machine is, of the control plane at `url` that has its state in the same deployment. A machine that is
/// none yet is made the host `wanted`; so is one that was a host of another control plane, as it is where the state of the
/// one before was removed.
pub(crate) async fn host(
    deployment: &LocalDeployment,
    url: &BaseUrl,
    wanted: &HostId,
) -> Result<HostId, Error> {
    let authority = Authority::read(&deployment.control().join("ca.pem"))?;
    if let Some(host) = enrolled(&deployment.host(), &authority)? {
        return Ok(host);
    }
    let token = token(deployment, url, authority, wanted.clone()).await?;
    let present = enrol(&token, &deployment.host(), Former::Replace).await?;
    Ok(present.host().clone())
}

/// Which host the machine is by what it has, if that is of this control plane.
fn enrolled(state: &Path, authority: &Authority) -> Result<Option<HostId>, FileError> {
    let files = Files::of(state);
    match files.url() {
        Err(FileError::NotEnrolled { .. }) => Ok(None),
        Err(error) => Err(error),
        Ok(_) if files.authority()?.digest() != authority.digest() => Ok(None),
        Ok(_) => Ok(Some(files.present()?.host().clone())),
    }
}

/// Has the administrator make an enrolment token.
async fn token(
    deployment: &LocalDeployment,
    url: &BaseUrl,
    authority: Authority,
    host: HostId,
) -> Result<EnrolmentToken, Error> {
    let administrator = Token::read(&deployment.token_file())?;
    let endpoint = Endpoint::new(url.clone(), administrator)
        .trusting(Trust::Authority(authority))
        .retrying(Retries::INTERACTIVE);
    let secret = fresh_secret();
    let body = CreateEnrolmentToken {
        digest: EnrolmentToken::digest_of(&secret),
        ttl: None,
    };
    let client = Client::new(endpoint)?;
    let made = client.create_enrolment_token(&host, &body, &fresh_key()).await?;
    Ok(EnrolmentToken {
        host,
        url: url.to_string(),
        authority: made.authority,
        secret,
    })
}

/// A secret that nobody has.
///
/// # Panics
/// If the kernel gives no random bytes, which it doesn't refuse after boot.
fn fresh_secret() -> SecretKey {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes.into()
}
