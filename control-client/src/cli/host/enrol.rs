//! `moorline host enroll-token` and `moorline host revoke`: who may be a host.

use clap::Args;
use moorline_shared::api::enrolment::{CreateEnrolmentToken, EnrolmentTokenMade};
use moorline_shared::enrolment::EnrolmentToken;
use moorline_shared::secret::{Secret, SecretKey};
use moorline_shared::{HostId, Timestamp, Ttl};
use serde::Serialize;

use super::Local;
use crate::cli::connection;
use crate::cli::failure::{Failure, With};
use crate::cli::input;
use crate::cli::out::note;
use crate::endpoint::BaseUrl;
use crate::transport::Client;

const EXAMPLES: &str = "\
Examples:
  moorline host enroll-token host-2 --endpoint https://control.example:8471 > host-2.token
  moorline-host enroll - < host-2.token         # on the new host, as root

Whoever has the token first is the host: give it to the new host by a file that only you and root there can read. What
stands on a command line is seen in the list of processes and kept by shells.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct EnrollTokenArgs {
    /// The host's name, which must be the one in its configuration.
    name: HostId,
    /// For how long the token is good: seconds, or a number with m, h or d behind it, 7d at most; an hour if absent.
    #[arg(long, value_name = "PERIOD", value_parser = input::ttl)]
    ttl: Option<Ttl>,
    /// The control plane's address as the host reaches it; the one that this command uses if absent.
    #[arg(long, value_name = "URL")]
    endpoint: Option<BaseUrl>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RevokeArgs {
    /// Which host.
    name: HostId,
}

/// A token as programs read it.
#[derive(Serialize)]
struct Made {
    token: Secret,
    host: HostId,
    expires_at: Timestamp,
    /// What the control plane is known by.
    authority: String,
}

pub(super) async fn token(args: EnrollTokenArgs, local: &mut Local<'_>) -> Result<(), Failure> {
    let (endpoint, source) = connection::endpoint(local.connection, local.environment).await?;
    let url = args.endpoint.unwrap_or_else(|| endpoint.url.clone());
    if url.is_loopback() {
        note(&format!(
            "the token leads to {url}, which only this machine reaches: for another one give --endpoint"
        ));
    }
    let client = Client::new(endpoint)?;
    let secret = fresh_secret();
    let body = CreateEnrolmentToken {
        digest: EnrolmentToken::digest_of(&secret),
        ttl: args.ttl,
    };
    let made = client.create_enrolment_token(&args.name, &body, &local.key).await;
    // A repetition has another secret, and so is another change: no key makes one of the two.
    let made = made.map_err(|error| {
        Failure::from(error).with(With {
            key: None,
            token: Some(source),
        })
    })?;
    let made = whole(made, &url, secret)?;
    local.out.show(&made, |made| format!("{}\n", made.token.expose()))
}

fn whole(made: EnrolmentTokenMade, url: &BaseUrl, secret: SecretKey) -> Result<Made, Failure> {
    let token = EnrolmentToken {
        host: made.host.clone(),
        url: url.to_string(),
        authority: made.authority,
        secret,
    };
    let text = token.text();
    Ok(Made {
        token: text
            .map_err(|error| Failure::argument("the control plane's address", url.to_string(), error))?,
        host: made.host,
        expires_at: made.expires_at,
        authority: format!("sha256:{}", made.authority),
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

pub(super) async fn revoke(args: RevokeArgs, local: &mut Local<'_>) -> Result<(), Failure> {
    let session = local.session().await?;
    let changed = session.client.revoke_host(&args.name, &session.key).await;
    let changed = changed.map_err(|error| session.failed(error))?;
    session.out.show(&changed, |changed| {
        format!(
            "revoked at revision {} by {}\n",
            changed.revision, changed.operation
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{EnrolmentToken, EnrolmentTokenMade, fresh_secret, whole};

    #[test]
    fn a_token_carries_all_that_a_machine_needs() {
        let made = EnrolmentTokenMade {
            host: "host-2".parse().unwrap(),
            expires_at: "2026-01-31T12:00:00Z".parse().unwrap(),
            authority: [1; 32].into(),
            operation: format!("op-{}", "0".repeat(64)).parse().unwrap(),
            revision: Default::default(),
        };
        let secret = fresh_secret();
        let made = whole(made, &"https://control:8471".parse().unwrap(), secret.clone()).unwrap();
        let token: EnrolmentToken = made.token.expose().parse().unwrap();
        assert_eq!(token.url, "https://control:8471");
        assert_eq!((token.host.as_str(), token.secret), ("host-2", secret));
    }
}
