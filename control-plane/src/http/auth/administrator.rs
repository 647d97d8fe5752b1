//! The bearer of the deployment's own token, who can do everything: it is there before any user is, and when no user
//! can come in any more.
//!
//! The token is made when the store is made. It is a user's, and speaks for no host and for no instance: these have
//! certificates and signatures of their own.

use std::path::{Path, PathBuf};

use axum::http::header;
use axum::http::request::Parts;
use moorline_shared::api::ON_BEHALF_OF;
use moorline_shared::{Digest, Principal};

use super::{Said, bearer};
use crate::http::Control;
use crate::http::problem::Failure;
use crate::identity::secret_file::{self, SecretFileError};
use crate::model::{Caller, Role};

/// The deployment's token. Only its digest is kept in memory, and compared.
#[derive(Debug)]
pub struct AdministratorToken(Digest);

/// Why the deployment's token can't be had.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Its file can't be used.
    #[error("the administrator's token can't be had")]
    File(#[from] SecretFileError),
    /// The file holds no token.
    #[error("token {}: it must hold at least 32 printable characters; delete it to have one made", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl AdministratorToken {
    /// Takes the administrator's token from `path`, or makes one there, readable by its owner only.
    pub fn open(path: &Path) -> Result<Self, TokenError> {
        let made = |random: &[u8; 32]| format!("moor-admin-{}", Digest::from(*random));
        let token = secret_file::read_or_make(path, made)?;
        let token = token.trim();
        if token.len() < 32 || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(TokenError::Malformed {
                path: path.to_owned(),
            });
        }
        Ok(Self(Digest::of(token.as_bytes())))
    }

    /// Digests are compared, not tokens: how long it takes says nothing of the token.
    fn admits(&self, token: &str) -> bool {
        Digest::of(token.as_bytes()) == self.0
    }
}

/// The caller, if the request shows the deployment's token.
pub(super) fn look(control: &Control, parts: &Parts) -> Said {
    match parts.headers.get(header::AUTHORIZATION).and_then(bearer) {
        Some(token) if control.administrator.admits(token) => caller(parts).into(),
        _ => Said::Nothing,
    }
}

fn caller(parts: &Parts) -> Result<Caller, Failure> {
    if parts.headers.contains_key(ON_BEHALF_OF) {
        let detail = "only a host speaks for an instance, by its certificate";
        return Err(Failure::header(ON_BEHALF_OF, detail));
    }
    Ok(Caller {
        principal: Principal::User("admin".parse().expect("this is a name")),
        account: "default".parse().expect("this is a name"),
        role: Role::Administrator,
        via: None,
        session: None,
    })
}
