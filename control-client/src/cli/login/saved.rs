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
pub(in crate::cli) struct Login {
    /// The control plane that it is for. Its tokens are sent nowhere else.
    pub(in crate::cli) url: String,
    pub(in crate::cli) session: String,
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

/// Where the login for a control plane is kept.
#[derive(Clone, Debug)]
pub(in crate::cli) struct LoginFile(PathBuf);

impl Login {
    pub(in crate::cli) fn of(url: String, tokens: Tokens) -> Result<Self, LoginError> {
        let seconds = u32::try_from(tokens.access_expires_in_seconds).unwrap_or(u32::MAX);
        Ok(Self {
            url,
            session: tokens.session,
            access_token: tokens.access_token,
            fresh_until: now().plus_seconds(seconds),
            refresh_token: tokens.refresh_token.ok_or(LoginError::NoRefreshToken)?,
        })
    }

    fn token(&self) -> Result<Token, LoginError> {
        self.access_token.expose().parse().map_err(LoginError::Token)
    }

    fn is_fresh(&self) -> bool {
        now().millis_until(self.fresh_until) > EARLY_SECONDS * 1_000
    }
}

impl LoginFile {
    /// The file for `url` in the folder of the profiles.
    pub(in crate::cli) fn of(folder: &Path, url: &str) -> Result<Self, LoginError> {
        if folder.as_os_str().is_empty() {
            return Err(LoginError::Nowhere);
        }
        let name = Digest::of(url.as_bytes()).to_string();
        Ok(Self(folder.join("logins").join(format!("{}.json", &name[..32]))))
    }

    /// The login that is kept there, if there is one.
    pub(in crate::cli) fn load(&self) -> Result<Option<Login>, LoginError> {
        let text = match fs::read(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.failed(source)),
        };
        let login = serde_json::from_slice(&text);
        login.map(Some).map_err(|source| LoginError::Form {
            path: self.0.clone(),
            source,
        })
    }

    /// Keeps a login in the place of the one before, in one step.
    pub(in crate::cli) fn save(&self, login: &Login) -> Result<(), LoginError> {
        let text = serde_json::to_vec(login).map_err(|source| LoginError::Form {
            path: self.0.clone(),
            source,
        })?;
        private_file::replace(&self.0, &text).map_err(|source| self.failed(source))
    }

    /// Forgets the login.
    pub(in crate::cli) fn remove(&self) -> Result<(), LoginError> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed(error)),
            _ => Ok(()),
        }
    }

    /// An access token of the login that is good for a while, refreshed if need be. `None` if nobody is logged in.
    ///
    /// `endpoint` is where to refresh it, without a token.
    pub(in crate::cli) async fn token(&self, endpoint: &Endpoint) -> Result<Option<Token>, Failure> {
        let Some(login) = self.load()?.filter(|login| login.url == endpoint.url.to_string()) else {
            return Ok(None);
        };
        if login.is_fresh() {
            return Ok(Some(login.token()?));
        }
        let _lock = self.lock()?;
        // Whoever had the lock before may have refreshed it.
        let Some(login) = self.load()? else {
            return Ok(None);
        };
        if login.is_fresh() {
            return Ok(Some(login.token()?));
        }
        let refresh = RefreshTokens {
            refresh_token: login.refresh_token,
            client: None,
        };
        let tokens = Client::new(endpoint.clone())?.refresh_tokens(&refresh).await?;
        let login = Login::of(login.url, tokens)?;
        self.save(&login)?;
        Ok(Some(login.token()?))
    }

    /// Held until it is dropped. Blocks while another command holds it.
    pub(in crate::cli) fn lock(&self) -> Result<File, LoginError> {
        let open = || {
            private_file::make_folder_of(&self.0)?;
            let path = self.0.with_extension("lock");
            let mut options = OpenOptions::new();
            let file = options
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)?;
            file.lock()?;
            Ok(file)
        };
        open().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> LoginError {
        LoginError::File {
            path: self.0.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_login_is_kept_for_its_owner_alone_and_printed_for_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let file = LoginFile::of(folder.path(), "https://control:1").unwrap();
        assert!(file.load().unwrap().is_none());
        let login = Login {
            url: "https://control:1".into(),
            session: "s-1".into(),
            access_token: "hunter2".to_owned().into(),
            fresh_until: now(),
            refresh_token: "hunter3".to_owned().into(),
        };
        file.save(&login).unwrap();
        assert!(!format!("{login:?}").contains("hunter"));
        let kept = file.load().unwrap().unwrap();
        assert_eq!(kept.refresh_token.expose(), "hunter3");
        assert!(!kept.is_fresh());
        let rights = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (rights(&file.0), rights(file.0.parent().unwrap())),
            (0o600, 0o700)
        );
        file.remove().unwrap();
        file.remove().unwrap();
        assert!(file.load().unwrap().is_none());
        assert!(LoginFile::of(Path::new(""), "x").is_err());
    }
}
