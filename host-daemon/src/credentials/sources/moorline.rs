//! The source `moorline`: the instance's own token, for services that take it from whoever bears it.

use moorline_shared::credential::{Bearer, Credential};
use serde::Deserialize;

use super::{FetchError, Fetched, Lasts, Request, Rhythm, Source};

/// The keys of the source: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

impl Source for Settings {
    fn rhythm(&self) -> Rhythm {
        Rhythm::Session
    }

    async fn fetch(&self, of: &Request) -> Result<Fetched, FetchError> {
        let session = of.session.as_ref().ok_or(FetchError::NoSession)?;
        let token = session.token.clone();
        Ok(Fetched {
            credential: Credential::Bearer(Bearer { token }).checked()?,
            lasts: Lasts::LikeSession,
        })
    }
}
