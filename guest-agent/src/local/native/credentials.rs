//! Credentials: what the agent holds, and those of a role.

use http::HeaderValue;
use http::header::CACHE_CONTROL;
use moorline_shared::agent::{CredentialFields, CredentialsHeld, RoleCredentials, RoleHeld, SessionHeld};
use moorline_shared::credential::Credential;
use moorline_shared::id::RoleName;
use moorline_shared::link::Moment;
use serde::Serialize;

use super::Native;
use super::answer::Outcome;
use super::params::Params;
use super::problem::Problem;
use super::respond::json;
use crate::access::{Peer, User};
use crate::credentials::{InstanceToken, RoleCredential};
use crate::platform::now;

impl Native {
    /// `GET /v1/credentials`.
    pub(super) async fn credentials(&self, peer: &Peer, params: Params<'_>) -> Outcome {
        params.finish()?;
        let credentials = &self.backing.given.credentials;
        credentials.complete(self.backing.settings.first_wait).await;
        let (held, now) = (credentials.read(), now());
        let shown = held
            .roles(now)
            .filter(|given| self.backing.may_assume(peer, &given.role));
        let roles = shown.map(|role| role_held(role, now)).collect();
        // The instance's own token is nobody's but the agent's; that there is one concerns who acts in its name.
        let acts = peer.user() == User::Known(self.backing.settings.writer);
        let session = held.session(now).filter(|_| acts);
        let session = session.map(|token| session_held(token, now));
        Ok(uncached(&CredentialsHeld { session, roles }))
    }

    /// `GET /v1/credentials/{role}`.
    pub(super) async fn role(&self, peer: &Peer, name: &str, params: Params<'_>) -> Outcome {
        params.finish()?;
        let name: RoleName = name.parse().map_err(|error| Problem::invalid("role", error))?;
        if !self.backing.may_assume(peer, &name) {
            return Err(Problem::no_credentials(&name));
        }
        let credentials = &self.backing.given.credentials;
        let soon = credentials
            .role_soon(&name, self.backing.settings.first_wait)
            .await;
        let given = soon.ok_or_else(|| Problem::no_credentials(&name))?;
        Ok(uncached(&RoleCredentials {
            held: role_held(&given, now()),
            credentials: match given.credential.clone() {
                Credential::Aws(aws) => CredentialFields::Aws(aws),
                Credential::Bearer(bearer) => CredentialFields::Bearer(bearer),
            },
        }))
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
fn uncached(document: &impl Serialize) -> http::Response<crate::local::body::Body> {
    let mut response = json(document);
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
