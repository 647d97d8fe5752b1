//! The source `web-identity`: a security token service that takes Moorline's word for who the instance is.
//!
//! The control plane gives an identity token for the instance, and the service gives AWS credentials for it by
//! `AssumeRoleWithWebIdentity`. The service's answer is read strictly: see [`answer`].

mod answer;
mod clients;
#[cfg(test)]
mod tests;

pub(super) use answer::AnswerError;
pub(in crate::credentials) use clients::Clients;

use std::path::PathBuf;

use bytes::Bytes;
use moorline_shared::credential::Credential;
use moorline_shared::secret::Secret;
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{FetchError, Fetched, Lasts, Request, Source, escaped};
use crate::credentials::config::KeyError;

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// How much of what a service says with a refusal is told, in bytes.
const TOLD_ERROR: usize = 512;
/// The authorities that Debian trusts.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The keys of the source.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where the service is, such as `https://sts.amazonaws.com/`; plain HTTP only on this machine itself.
    pub url: String,
    /// The role there, such as `arn:aws:iam::123456789012:role/backup`.
    pub role_arn: String,
    /// Whom the identity token is for, as the service calls itself.
    #[serde(default = "default_audience")]
    pub audience: String,
    /// For how long the credentials are to be good, in seconds, 900 to 43,200.
    #[serde(default = "default_duration")]
    pub duration_seconds: u32,
    /// The authorities that the service's certificate may be of, in PEM.
    #[serde(default = "default_authorities")]
    pub ca_file: PathBuf,
}

fn default_audience() -> String {
    "sts.amazonaws.com".to_owned()
}

const fn default_duration() -> u32 {
    3_600
}

fn default_authorities() -> PathBuf {
    SYSTEM_AUTHORITIES.into()
}

impl Source for Settings {
    fn check(&self) -> Result<(), KeyError> {
        KeyError::bound("duration_seconds", self.duration_seconds.into(), 900, 43_200)?;
        if !self.ca_file.is_absolute() {
            return Err(KeyError::new("ca_file", "is relative: give an absolute path"));
        }
        if self.role_arn.is_empty() || self.audience.is_empty() {
            return Err(KeyError::new("role_arn", "or audience is empty"));
        }
        address(&self.url).map(drop)
    }

    async fn fetch(&self, of: &Request) -> Result<Fetched, FetchError> {
        let asked = of
            .control
            .create_identity_token(&of.host, of.instance, &self.audience);
        let identity = asked.await.map_err(FetchError::Control)?;
        let answer = self.ask(of, &identity.token).await?;
        let (aws, until) = answer::read(&answer)?;
        Ok(Fetched {
            credential: Credential::Aws(aws).checked()?,
            lasts: Lasts::Until(until),
        })
    }
}

impl Settings {
    /// The service's answer to `AssumeRoleWithWebIdentity`.
    async fn ask(&self, of: &Request, identity: &Secret) -> Result<Zeroizing<Vec<u8>>, FetchError> {
        let url = address(&self.url).map_err(|error| self.unreachable(error.problem))?;
        let authorities = (url.scheme() == "https").then_some(self.ca_file.as_path());
        let client = of.clients.trusting(authorities).await;
        let client = client.map_err(|error| self.unreachable(error))?;
        let request = client
            .post(url)
            .header("accept", "application/xml")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Bytes::from_owner(self.form(of, identity)));
        let sent = request.send().await;
        let response = sent.map_err(|error| self.unreachable(error.without_url()))?;
        let status = response.status();
        let body = self.whole(response).await?;
        if status == StatusCode::OK {
            return Ok(body);
        }
        Err(FetchError::Refused {
            url: self.url.clone(),
            status: status.as_u16(),
            why: escaped(&answer::reason(&body), TOLD_ERROR),
        })
    }

    fn unreachable(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> FetchError {
        FetchError::Unreachable {
            url: self.url.clone(),
            source: source.into(),
        }
    }

    fn form(&self, of: &Request, identity: &Secret) -> Zeroizing<String> {
        // Large enough from the beginning: a copy into a larger one would leave the token where it was.
        let others = 1_024 + 3 * self.role_arn.len();
        let form = String::with_capacity(others + 3 * identity.expose().len());
        let form = form_urlencoded::Serializer::new(form)
            .append_pair("Action", "AssumeRoleWithWebIdentity")
            .append_pair("Version", "2011-06-15")
            .append_pair("RoleArn", &self.role_arn)
            .append_pair("RoleSessionName", &of.instance.to_string())
            .append_pair("DurationSeconds", &self.duration_seconds.to_string())
            .append_pair("WebIdentityToken", identity.expose())
            .finish();
        Zeroizing::new(form)
    }

    async fn whole(&self, mut response: Response) -> Result<Zeroizing<Vec<u8>>, FetchError> {
        // Large enough from the beginning: a copy into a larger one would leave the secrets where they were.
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_ANSWER));
        loop {
            let piece = response.chunk().await;
            let Some(piece) = piece.map_err(|error| self.unreachable(error.without_url()))? else {
                return Ok(body);
            };
            if body.len() + piece.len() > MAX_ANSWER {
                return Err(FetchError::TooLong(MAX_ANSWER));
            }
            body.extend_from_slice(&piece);
        }
    }
}

/// Whatever goes over a network is encrypted.
fn address(text: &str) -> Result<Url, KeyError> {
    let refuse = |problem: String| KeyError::new("url", problem);
    let url = Url::parse(text).map_err(|error| refuse(format!("is '{text}': {error}")))?;
    match (url.scheme(), url.host_str()) {
        ("https", Some(_)) | ("http", Some("127.0.0.1" | "[::1]" | "localhost")) => Ok(url),
        _ => Err(refuse(format!(
            "is '{text}': write https://HOST/; plain http only to 127.0.0.1"
        ))),
    }
}
