//! Which control plane is meant, and with which token: flags before the environment before the profile.

use std::path::{Path, PathBuf};

use super::args::ConnectionArgs;
use super::failure::Failure;
use super::profile::{Profile, Profiles};
use crate::endpoint::{BaseUrl, Endpoint, Retries};
use crate::token::{Token, TokenError};

/// Where a control plane of one's own listens, unless it is told otherwise.
const DEFAULT_URL: &str = "http://127.0.0.1:8471";

/// What the process's environment says about control planes.
#[derive(Default)]
pub(super) struct Environment {
    pub(super) config: Option<PathBuf>,
    pub(super) profile: Option<String>,
    pub(super) url: Option<String>,
    pub(super) token: Option<String>,
    pub(super) token_file: Option<PathBuf>,
}

impl Environment {
    pub(super) fn of_process() -> Self {
        Self {
            config: config_path(|name| {
                std::env::var_os(name)
                    .filter(|value| !value.is_empty())
                    .map(PathBuf::from)
            }),
            profile: text("MOORLINE_PROFILE"),
            url: text("MOORLINE_URL"),
            token: text("MOORLINE_TOKEN"),
            token_file: text("MOORLINE_TOKEN_FILE").map(PathBuf::from),
        }
    }
}

/// An empty variable counts as an absent one, as shells can't tell them apart easily.
fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// `MOORLINE_CONFIG`, or `moorline/config.toml` where the XDG base directory specification puts it.
fn config_path(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let below = |folder: PathBuf| folder.join("moorline/config.toml");
    variable("MOORLINE_CONFIG")
        .or_else(|| {
            variable("XDG_CONFIG_HOME")
                .filter(|folder| folder.is_absolute())
                .map(below)
        })
        .or_else(|| variable("HOME").map(|home| below(home.join(".config"))))
}

/// Why it is not known whom to ask.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error(
        "there is no token for {url}: give one with --token-file or MOORLINE_TOKEN, \
         or keep one with 'moorline profile set NAME --url {url} --token-file FILE'"
    )]
    NoToken { url: BaseUrl },
    #[error("{whose} can't be used as a token")]
    Token {
        whose: &'static str,
        #[source]
        source: TokenError,
    },
}

/// The endpoint that flags, environment and profile agree on.
pub(super) fn endpoint(args: &ConnectionArgs, environment: &Environment) -> Result<Endpoint, Failure> {
    let profiles = Profiles::load(environment.config.as_deref())?;
    let profile = profiles.chosen(args.profile.as_ref(), environment.profile.as_deref())?;
    let url = url(args, environment, profile)?;
    let Some(token) = token(args, environment, profile, profiles.folder())? else {
        return Err(ConnectionError::NoToken { url }.into());
    };
    Ok(Endpoint::new(url, token).retrying(Retries::INTERACTIVE))
}

fn url(
    args: &ConnectionArgs,
    environment: &Environment,
    profile: Option<&Profile>,
) -> Result<BaseUrl, Failure> {
    if let Some(url) = &args.url {
        return Ok(url.clone());
    }
    let (what, text) = match (
        &environment.url,
        profile.and_then(|profile| profile.url.as_deref()),
    ) {
        (Some(url), _) => ("the address in MOORLINE_URL", url.as_str()),
        (None, Some(url)) => ("the address in the profile", url),
        (None, None) => ("an address", DEFAULT_URL),
    };
    text.parse().map_err(|error| Failure::argument(what, text, error))
}

fn token(
    args: &ConnectionArgs,
    environment: &Environment,
    profile: Option<&Profile>,
    folder: &Path,
) -> Result<Option<Token>, Failure> {
    let of_text = |whose, text: &str| {
        let token = text
            .parse()
            .map_err(|source| ConnectionError::Token { whose, source })?;
        Ok(Some(token))
    };
    let of_file = |whose, path: &Path| {
        let token = Token::read(path).map_err(|source| ConnectionError::Token { whose, source })?;
        Ok(Some(token))
    };
    if let Some(path) = &args.token_file {
        return of_file("what --token-file names", path);
    }
    if let Some(text) = &environment.token {
        return of_text("MOORLINE_TOKEN", text);
    }
    if let Some(path) = &environment.token_file {
        return of_file("what MOORLINE_TOKEN_FILE names", path);
    }
    match profile.map(|profile| (&profile.token, &profile.token_file)) {
        Some((Some(secret), _)) => of_text("the profile's token", secret.reveal()),
        Some((None, Some(path))) => of_file("the profile's token file", &folder.join(path)),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::{ConnectionArgs, Environment, config_path, endpoint};
    use std::path::PathBuf;

    const CONFIG: &str = "chosen = \"lab\"\n\
        [profiles.lab]\nurl = \"http://lab:1\"\ntoken = \"of-lab\"\n\
        [profiles.other]\nurl = \"http://other:2\"\ntoken_file = \"other.token\"\n";

    fn asked(args: &ConnectionArgs, set: impl FnOnce(&mut Environment)) -> Result<(String, String), String> {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.toml");
        std::fs::write(&config, CONFIG).unwrap();
        std::fs::write(folder.path().join("other.token"), "of-other\n").unwrap();
        let mut environment = Environment {
            config: Some(config),
            ..Environment::default()
        };
        set(&mut environment);
        let endpoint = endpoint(args, &environment).map_err(|failure| failure.to_string())?;
        let header = endpoint.token.unwrap().header();
        Ok((endpoint.url.to_string(), header.to_str().unwrap().to_owned()))
    }

    fn pair(url: &str, token: &str) -> (String, String) {
        (url.to_owned(), format!("Bearer {token}"))
    }

    #[test]
    fn flags_come_before_the_environment_and_that_before_the_profile() {
        let none = ConnectionArgs::default();
        assert_eq!(asked(&none, |_| ()).unwrap(), pair("http://lab:1", "of-lab"));
        let other = |environment: &mut Environment| environment.profile = Some("other".into());
        assert_eq!(asked(&none, other).unwrap(), pair("http://other:2", "of-other"));
        let both = |environment: &mut Environment| {
            environment.url = Some("http://env:3".into());
            environment.token = Some("of-env".into());
        };
        assert_eq!(asked(&none, both).unwrap(), pair("http://env:3", "of-env"));
        let flags = ConnectionArgs {
            url: Some("http://flag:4".parse().unwrap()),
            profile: Some("other".parse().unwrap()),
            ..ConnectionArgs::default()
        };
        assert_eq!(
            asked(&flags, |environment| environment.url =
                Some("http://env:3".into()))
            .unwrap(),
            pair("http://flag:4", "of-other")
        );
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let none = ConnectionArgs::default();
        let unknown = |environment: &mut Environment| environment.profile = Some("nowhere".into());
        insta::assert_snapshot!(asked(&none, unknown).unwrap_err());
        let bare = |environment: &mut Environment| environment.config = None;
        insta::assert_snapshot!(asked(&none, bare).unwrap_err());
        let bad = |environment: &mut Environment| environment.url = Some("control".into());
        insta::assert_snapshot!(asked(&none, bad).unwrap_err());
    }

    #[test]
    fn the_file_is_where_the_environment_says() {
        let with = |set: &'static [(&str, &str)]| {
            config_path(move |name| {
                set.iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| PathBuf::from(value))
            })
        };
        assert_eq!(with(&[]), None);
        assert_eq!(
            with(&[("HOME", "/home/u")]),
            Some("/home/u/.config/moorline/config.toml".into())
        );
        assert_eq!(
            with(&[("XDG_CONFIG_HOME", "/x"), ("HOME", "/home/u")]),
            Some("/x/moorline/config.toml".into())
        );
        assert_eq!(
            with(&[("MOORLINE_CONFIG", "/c.toml"), ("XDG_CONFIG_HOME", "/x")]),
            Some("/c.toml".into())
        );
    }
}
