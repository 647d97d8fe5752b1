//! Logins as they are kept between commands: a file for each control plane, readable by its owner alone.
//!
//! Whoever refreshes a login holds the lock of its file: of two shells the second finds what the first got, where showing
//! the same refresh token twice would end both.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use moorline_shared::api::identity::{RefreshTokens, Tokens};
use moorline_shared::secret::Secret;
use moorline_shared::{Digest, Timestamp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::cli::failure::Failure;
use crate::cli::private_file;
use crate::cli::table::now;
use crate::endpoint::Endpoint;
use crate::token::Token;
use crate::transport::Client;

/// A token that ends sooner than this is refreshed first, in seconds.
const EARLY_SECONDS: u64 = 60;

/// What is kept of a login.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The control plane that it is for. Its tokens are sent nowhere else.
    url: String,
    pub(super) session: String,
    access_token: Secret,
    /// By this machine's clock, which need not be the control plane's.
    fresh_until: Timestamp,
    refresh_token: Secret,
}

/// Why a login can't be kept or used.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum LoginError {
    #[error("the login file {} can't be used; log in again with 'moorline login'", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the login file {} is damaged; log in again with 'moorline login'", path.display())]
    Form {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("there is no place for a login file: set MOORLINE_CONFIG, XDG_CONFIG_HOME or HOME")]
    Nowhere,
    #[error("the control plane gave no refresh token")]
    NoRefreshToken,
    #[error("the control plane gave a token that can't be sent")]
    Token(#[source] crate::token::TokenError),
}

/// A login at a control plane, whether or not there is one now.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Login {
    /// The control plane, without a token.
    pub(in crate::cli) endpoint: Endpoint,
    /// Where it is kept.
    path: PathBuf,
}

/// Held by the one command that may change a login.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Kept {
    pub(super) fn of(url: String, tokens: Tokens) -> Result<Self, LoginError> {
        let seconds = u32::try_from(tokens.access_expires_in_seconds).unwrap_or(u32::MAX);
        Ok(Self {
            url,
            session: tokens.session,
            access_token: tokens.access_token,
            fresh_until: now().plus_seconds(seconds),
            refresh_token: tokens.refresh_token.ok_or(LoginError::NoRefreshToken)?,
        })
    }

    pub(super) fn token(&self) -> Result<Token, LoginError> {
        self.access_token.expose().parse().map_err(LoginError::Token)
    }

    fn is_fresh(&self) -> bool {
        now().millis_until(self.fresh_until) > EARLY_SECONDS * 1_000
    }
}

impl Login {
    /// The one at this control plane, kept in the folder of the profiles.
    pub(in crate::cli) fn at(endpoint: Endpoint, folder: &Path) -> Result<Self, LoginError> {
        if folder.as_os_str().is_empty() {
            return Err(LoginError::Nowhere);
        }
        let name = Digest::of(endpoint.url.to_string().as_bytes()).to_string();
        let path = folder.join("logins").join(format!("{}.json", &name[..32]));
        Ok(Self { endpoint, path })
    }

    /// What is kept of it, if somebody is logged in.
    pub(super) fn load(&self) -> Result<Option<Kept>, LoginError> {
        let text = match fs::read(&self.path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.failed(source)),
        };
        let kept: Result<Kept, _> = serde_json::from_slice(&text);
        let kept = kept.map_err(|source| LoginError::Form {
            path: self.path.clone(),
            source,
        })?;
        Ok(Some(kept).filter(|kept| kept.url == self.endpoint.url.to_string()))
    }

    /// Keeps a login in the place of the one before, in one step.
    pub(super) fn save(&self, kept: &Kept, _lock: &Lock) -> Result<(), LoginError> {
        let text = serde_json::to_vec(kept).map_err(|source| LoginError::Form {
            path: self.path.clone(),
            source,
        })?;
        private_file::replace(&self.path, &Zeroizing::new(text)).map_err(|source| self.failed(source))
    }

    /// Forgets the login.
    pub(super) fn remove(&self, _lock: &Lock) -> Result<(), LoginError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed(error)),
            _ => Ok(()),
        }
    }

    /// An access token of the login that is good for a while, refreshed if need be. `None` if nobody is logged in.
    pub(in crate::cli) async fn token(&self) -> Result<Option<Token>, Failure> {
        match self.load()? {
            Some(kept) if kept.is_fresh() => Ok(Some(kept.token()?)),
            Some(_) => {
                let kept = self.refreshed(&self.lock()?).await?;
                Ok(kept.map(|kept| kept.token()).transpose()?)
            }
            None => Ok(None),
        }
    }

    /// The login with an access token that is good for a while. `None` if nobody is logged in.
    pub(super) async fn refreshed(&self, lock: &Lock) -> Result<Option<Kept>, Failure> {
        // Whoever had the lock before may have refreshed it, or logged out.
        let Some(kept) = self.load()?.filter(|kept| !kept.is_fresh()) else {
            return Ok(self.load()?);
        };
        let refresh = RefreshTokens {
            refresh_token: kept.refresh_token,
            client: None,
        };
        let client = Client::new(self.endpoint.clone())?;
        let tokens = client.refresh_tokens(&refresh).await?;
        let kept = Kept::of(kept.url, tokens)?;
        self.save(&kept, lock)?;
        Ok(Some(kept))
    }

    /// Blocks while another command holds it.
    pub(super) fn lock(&self) -> Result<Lock, LoginError> {
        let open = || {
            private_file::make_folder_of(&self.path)?;
            let path = self.path.with_extension("lock");
            let mut options = OpenOptions::new();
            let file = options
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)?;
            file.lock()?;
            Ok(Lock { _file: file })
        };
        open().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> LoginError {
        LoginError::File {
            path: self.path.clone(),
            source,
        }
    }

    /// Has somebody be logged in, with an access token that is good for an hour.
    #[cfg(test)]
    pub(in crate::cli) fn keep_for_tests(folder: &Path, url: &str, token: &str) {
        let login = Self::at(Endpoint::without_token(url.parse().unwrap()), folder).unwrap();
        let kept = Kept {
            url: url.to_owned(),
            session: "s-1".to_owned(),
            access_token: token.to_owned().into(),
            fresh_until: now().plus_seconds(3_600),
            refresh_token: "mlr_1".to_owned().into(),
        };
        login.save(&kept, &login.lock().unwrap()).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_login_is_kept_for_its_owner_alone_and_printed_for_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::without_token("https://control:1".parse().unwrap());
        let login = Login::at(endpoint.clone(), folder.path()).unwrap();
        assert!(login.load().unwrap().is_none());
        let kept = Kept {
            url: "https://control:1".into(),
            session: "s-1".into(),
            access_token: "hunter2".to_owned().into(),
            fresh_until: now(),
            refresh_token: "hunter3".to_owned().into(),
        };
        let lock = login.lock().unwrap();
        login.save(&kept, &lock).unwrap();
        assert!(!format!("{kept:?}").contains("hunter"));
        let again = login.load().unwrap().unwrap();
        assert_eq!(again.refresh_token.expose(), "hunter3");
        assert!(!again.is_fresh());
        let rights = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (rights(&login.path), rights(login.path.parent().unwrap())),
            (0o600, 0o700)
        );
        login.remove(&lock).unwrap();
        login.remove(&lock).unwrap();
        assert!(login.load().unwrap().is_none());
        assert!(Login::at(endpoint, Path::new("")).is_err());
    }
}
