//! Who asks: the bearer of the deployment's token, a host, or an instance for which its host speaks.
//!
//! One token is made when the store is made. Its bearer is the administrator; with the header `moorline-host` it is
//! that host, and with `moorline-instance` too it is that instance, which the rules accept only on that host.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use moorline_shared::api::{HOST, ON_BEHALF_OF};
use moorline_shared::{Digest, Principal};

use super::Control;
use super::problem::Failure;
use crate::model::{Caller, Role};

/// The tokens that open the API. Only a digest is kept in memory, and compared.
#[derive(Debug)]
pub struct Tokens {
    administrator: Digest,
}

/// Why the token's file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The operating system refused.
    #[error("token {}: {what}; check that the directory exists and that this user may write to it", path.display())]
    Inaccessible {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file holds no token.
    #[error("token {}: it must hold at least 32 printable characters; delete it to have one made", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl Tokens {
    /// Takes the administrator's token from `path`, or makes one there, readable by its owner only.
    pub fn open(path: &Path) -> Result<Self, TokenError> {
        let failed = |what| {
            move |source| TokenError::Inaccessible {
                path: path.to_owned(),
                what,
                source,
            }
        };
        let token = match File::open(path) {
            Ok(mut file) => {
                let mut text = String::new();
                file.read_to_string(&mut text)
                    .map_err(failed("it can't be read"))?;
                text
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                make(path).map_err(failed("it can't be made"))?
            }
            Err(error) => return Err(failed("it can't be opened")(error)),
        };
        let token = token.trim();
        if token.len() < 32 || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(TokenError::Malformed {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            administrator: Digest::of(token.as_bytes()),
        })
    }

    /// Digests are compared, not tokens: how long it takes says nothing of the token.
    fn admits(&self, token: &str) -> bool {
        Digest::of(token.as_bytes()) == self.administrator
    }
}

/// Makes a token that is there whole or not at all, whenever the machine fails.
fn make(path: &Path) -> std::io::Result<String> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(std::io::Error::other)?;
    let token = format!("moor-admin-{}", Digest::from(random));
    let aside = path.with_extension("token.new");
    // One that is there is left of a start that did not come to its end.
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)?;
    file.write_all(format!("{token}\n").as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&aside, path)?;
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all()?,
        _ => File::open(".")?.sync_all()?,
    }
    Ok(token)
}

impl FromRequestParts<Control> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, control: &Control) -> Result<Self, Failure> {
        let token = bearer(&parts.headers).ok_or_else(unknown)?;
        if !control.tokens.admits(token) {
            return Err(unknown());
        }
        caller(&parts.headers)
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn unknown() -> Failure {
    let detail =
        "send Authorization: Bearer TOKEN with the token that the control plane keeps in admin.token";
    Failure::new(
        "unauthenticated",
        StatusCode::UNAUTHORIZED,
        "The token is missing or wrong",
        detail,
    )
}

fn caller(headers: &HeaderMap) -> Result<Caller, Failure> {
    let (host, instance) = (named(headers, HOST)?, named(headers, ON_BEHALF_OF)?);
    let (principal, role, via) = match (host, instance) {
        (None, None) => (administrator(), Role::Administrator, None),
        (Some(host), None) => (Principal::Host(host), Role::Member, None),
        (Some(host), Some(instance)) => (Principal::Instance(instance), Role::Member, Some(host)),
        (None, Some(_)) => {
            return Err(Failure::header(
                HOST,
                "only a host speaks for an instance: name the host too",
            ));
        }
    };
    Ok(Caller {
        principal,
        account: "default".parse().expect("this is a name"),
        role,
        via,
    })
}

fn administrator() -> Principal {
    Principal::User("admin".parse().expect("this is a name"))
}

fn named<T: std::str::FromStr<Err: std::fmt::Display>>(
    headers: &HeaderMap,
    name: &'static str,
) -> Result<Option<T>, Failure> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .map_err(|_| Failure::header(name, "it must be printable ASCII"))?;
    text.parse()
        .map(Some)
        .map_err(|error: T::Err| Failure::header(name, error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_start_that_was_cut_off_leaves_nothing_that_stops_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.token");
        std::fs::write(folder.path().join("admin.token.new"), "moor-ad").unwrap();
        Tokens::open(&path).unwrap();
        let token = std::fs::read_to_string(&path).unwrap();
        assert!(Tokens::open(&path).unwrap().admits(token.trim()));
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let files = folder.path().read_dir().unwrap().count();
        assert_eq!(files, 1, "only the token is left");
    }
}
