//! The source `moorline`: the instance's own token, for services that take it from whoever bears it.

use std::time::Duration;

use moorline_shared::credential::{Bearer, Credential};
use serde::Deserialize;

use super::{FetchError, Fetched, Lasts, Request, Rhythm};
use crate::credentials::config::KeyError;

/// The keys of the source: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

#[expect(
    clippy::unused_self,
    clippy::unnecessary_wraps,
    clippy::unused_async,
    reason = "other sources decide by their keys, may be wrong, and take their time"
)]
impl Settings {
    pub(super) const fn check(self) -> Result<(), KeyError> {
        Ok(())
    }

    pub(super) const fn has_secrets(self) -> bool {
        false
    }

    pub(super) const fn rhythm(self) -> Rhythm {
        Rhythm::Session
    }

    pub(super) const fn falls_with_session(self) -> bool {
        true
    }

    pub(super) const fn patience(self) -> Duration {
        Duration::from_secs(1)
    }

    pub(super) async fn fetch(self, of: &Request) -> Result<Fetched, FetchError> {
        let session = of.session.as_ref().ok_or(FetchError::NoSession)?;
        let token = session.token.clone();
        Ok(Fetched {
            credential: Credential::Bearer(Bearer { token }).checked()?,
            lasts: Lasts::LikeSession,
        })
    }
}
