//! Credentials: what the agent holds, and those of a role.

use http::HeaderValue;
use http::header::CACHE_CONTROL;
use moorline_shared::agent::{CredentialFields, CredentialsHeld, RoleCredentials, RoleHeld, SessionHeld};
use moorline_shared::credential::Credential;
use moorline_shared::id::RoleName;
use moorline_shared::link::Moment;
use serde::Serialize;

use super::Surface;
use super::answer::Outcome;
use super::connection::Peer;
use super::params::Params;
use super::problem::Problem;
use super::respond::json;
use crate::credentials::{InstanceToken, RoleCredential};
use crate::platform::now;

impl Surface {
    /// `GET /v1/credentials`.
    pub(super) async fn credentials(&self, peer: Peer, params: Params<'_>) -> Outcome {
        params.finish()?;
        self.may_see_credentials(peer)?;
        self.credentials.complete(self.settings.first_wait).await;
        let (held, now) = (self.credentials.read(), now());
        let roles = held.roles(now).map(|role| role_held(role, now)).collect();
        let session = held.session(now).map(|token| session_held(token, now));
        Ok(uncached(&CredentialsHeld { session, roles }))
    }

    /// `GET /v1/credentials/{role}`.
    pub(super) async fn role(&self, peer: Peer, name: &str, params: Params<'_>) -> Outcome {
        params.finish()?;
        self.may_see_credentials(peer)?;
        let name: RoleName = name.parse().map_err(|error| Problem::invalid("role", error))?;
        let soon = self.credentials.role_soon(&name, self.settings.first_wait).await;
        let given = soon.ok_or_else(|| Problem::no_credentials(&name))?;
        Ok(uncached(&RoleCredentials {
            held: role_held(&given, now()),
            credentials: match given.credential.clone() {
                Credential::Aws(aws) => CredentialFields::Aws(aws),
                Credential::Bearer(bearer) => CredentialFields::Bearer(bearer),
            },
        }))
    }

    /// With credentials a program acts in the instance's name, so they are for those that may change its data.
    fn may_see_credentials(&self, peer: Peer) -> Result<(), Problem> {
        if peer.user == self.settings.writer {
            Ok(())
        } else {
            Err(Problem::not_for_credentials(peer.user, self.settings.writer))
        }
    }
}

fn role_held(given: &RoleCredential, now: Moment) -> RoleHeld {
    RoleHeld {
        role: given.role.clone(),
        kind: given.credential.kind(),
        expires_at: given.expires_at,
        expires_in_ms: given.deadline.since(now),
    }
}

fn session_held(token: &InstanceToken, now: Moment) -> SessionHeld {
    SessionHeld {
        session: token.session.clone(),
        token_id: token.token_id.clone(),
        expires_in_ms: token.deadline.since(now),
    }
}

/// A document that nobody on the way may keep.
fn uncached(document: &impl Serialize) -> http::Response<super::body::Body> {
    let mut response = json(document);
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
