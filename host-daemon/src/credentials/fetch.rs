//! Fetches what is wanted: tokens from the control plane, credentials from sources.

use std::sync::Arc;
use std::time::Duration;

use moorline_client::Client;
use moorline_shared::HostId;
use moorline_shared::api::session::{CreateInstanceSession, InstanceSession, SESSION_ENDED};
use moorline_shared::id::RoleName;
use moorline_shared::link::Moment;
use tokio::time::timeout;

use super::config::Roles;
use super::sources::{Clients, FetchError, Fetched, Lasts, Request, Source as _};
use super::table::{Come, Item, Wanted};
use crate::causes::Causes;
use crate::link::{RoleGrant, SessionGrant, now, time};

/// How long the control plane may take to give a token.
const SESSION_PATIENCE: Duration = Duration::from_secs(30);

/// Whom to ask.
#[derive(Clone, Debug)]
pub(super) struct Fetcher {
    pub(super) host: HostId,
    pub(super) control: Client,
    pub(super) roles: Arc<Roles>,
    pub(super) clients: Clients,
}

impl Fetcher {
    /// Fetches what is wanted. What went wrong comes back as a text that people may see. Dropping the future ends the
    /// fetch and leaves nothing behind.
    pub(super) async fn fetch(&self, wanted: Wanted) -> Result<Come, String> {
        let come = match wanted.item.clone() {
            Item::Session => self.session(&wanted).await,
            Item::Role(role) => self.role(role, wanted).await,
        };
        come.map_err(|error| Causes(&error).to_string())
    }

    async fn session(&self, wanted: &Wanted) -> Result<Come, FetchError> {
        let body = CreateInstanceSession {
            incarnation: wanted.incarnation,
            instead_of: wanted.instead_of.clone(),
        };
        let asked = now();
        let asking = self
            .control
            .create_instance_session(&self.host, wanted.instance, &body);
        let given = timeout(SESSION_PATIENCE, asking).await;
        match given.map_err(|_| FetchError::Timeout(SESSION_PATIENCE))? {
            Ok(given) => Ok(session(given, asked)),
            Err(error) => match error.problem().filter(|problem| problem.kind == SESSION_ENDED) {
                Some(problem) => Ok(Come::Ended(problem.detail.clone())),
                None => Err(FetchError::Control(error)),
            },
        }
    }

    async fn role(&self, role: RoleName, wanted: Wanted) -> Result<Come, FetchError> {
        let Some(config) = self.roles.get(&role) else {
            return Err(FetchError::NoSuchRole(role));
        };
        let request = Request {
            instance: wanted.instance,
            incarnation: wanted.incarnation,
            account: wanted.account,
            role,
            host: self.host.clone(),
            session: wanted.session,
            control: self.control.clone(),
            clients: self.clients.clone(),
        };
        let patience = config.source.patience();
        let fetched = timeout(patience, config.source.fetch(&request)).await;
        let fetched = fetched.map_err(|_| FetchError::Timeout(patience))??;
        grant(fetched, request.session.as_deref())
    }
}

/// The token counts from the moment at which it was asked for, which is on the safe side.
fn session(given: InstanceSession, asked: Moment) -> Come {
    let after = |seconds: u32| Moment(asked.0 + u64::from(seconds) * 1_000);
    let grant = SessionGrant {
        session: given.session,
        token: given.token,
        token_id: given.token_id,
        sealed_by: given.sealed_by,
        key: given.key,
        deadline: after(given.expires_in_seconds),
    };
    Come::Session(grant, given.identify_within_seconds.map(after))
}

/// Turns the date into a deadline on the clock that nobody sets.
fn grant(fetched: Fetched, session: Option<&SessionGrant>) -> Result<Come, FetchError> {
    let (moment, today) = (now(), time().ok_or(FetchError::Clock)?);
    let (deadline, expires_at) = match fetched.lasts {
        Lasts::Until(date) => (Moment(moment.0.saturating_add(today.millis_until(date))), date),
        Lasts::LikeSession => {
            let deadline = session.ok_or(FetchError::NoSession)?.deadline;
            let seconds = u32::try_from(deadline.since(moment) / 1_000).unwrap_or(u32::MAX);
            (deadline, today.plus_seconds(seconds))
        }
    };
    Ok(Come::Role(RoleGrant {
        credential: fetched.credential,
        deadline,
        expires_at,
    }))
}
