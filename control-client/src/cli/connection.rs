//! Which control plane is meant, whom it is known by, and with which token: flags before the environment before the
//! profile, and where nothing is said, the deployment of `moorline up`. A login goes before the token of a profile that
//! is only the chosen one, and after everything that was said for this command.

use std::fmt;
use std::path::{Path, PathBuf};

use super::args::ConnectionArgs;
use super::failure::Failure;
use super::login::Login;
use super::profile::{Profile, Profiles};
use crate::endpoint::{BaseUrl, Endpoint, Retries};
use crate::local::LocalDeployment;
use crate::tls::{Authority, AuthorityDigestError, AuthorityError, Trust};
use crate::token::{Token, TokenError};

/// Where a control plane of one's own listens, unless it is told otherwise.
const DEFAULT_URL: &str = "https://127.0.0.1:8471";

/// What the process's environment says about control planes.
#[derive(Default)]
pub(super) struct Environment {
    pub(super) config: Option<PathBuf>,
    pub(super) profile: Option<String>,
    pub(super) url: Option<String>,
    pub(super) token: Option<String>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) ca_digest: Option<String>,
    /// What `moorline up` has begun on this machine, as if a profile said it.
    pub(super) local: Option<Profile>,
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
            ca_file: text("MOORLINE_CA_FILE").map(PathBuf::from),
            ca_digest: text("MOORLINE_CA_DIGEST"),
            local: local(&LocalDeployment::of_process()),
        }
    }
}

/// The deployment as a profile, if it was ever begun.
fn local(deployment: &LocalDeployment) -> Option<Profile> {
    let url = std::fs::read_to_string(deployment.url_file()).ok()?;
    Some(Profile {
        url: Some(url.trim().to_owned()),
        token_file: Some(deployment.token_file()),
        ..Profile::default()
    })
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
        "there is no token for {url}: log in with 'moorline login', give one with --token-file or MOORLINE_TOKEN, \
         or keep one with 'moorline profile set NAME --url {url} --token-file FILE'"
    )]
    NoToken { url: BaseUrl },
    #[error(
        "it is not known whom to trust at {url}: give the control plane's ca.pem with --ca-file or MOORLINE_CA_FILE, \
         or its digest with --ca-digest"
    )]
    NoAuthority { url: BaseUrl },
    #[error("{whose} can't be used")]
    Authority {
        whose: &'static str,
        #[source]
        source: AuthorityError,
    },
    #[error("{whose} can't be used as a token")]
    Token {
        whose: &'static str,
        #[source]
        source: TokenError,
    },
}

/// Where a token is from.
#[derive(Clone, Debug)]
pub(super) enum TokenSource {
    /// `--token-file`.
    Flag,
    /// `MOORLINE_TOKEN`.
    Variable,
    /// `MOORLINE_TOKEN_FILE`.
    VariableFile,
    /// The profile that was named for this command.
    NamedProfile,
    /// A login.
    Login(Box<Login>),
    /// The profile that is the chosen one.
    ChosenProfile,
    /// The administrator of the deployment on this machine.
    Local,
}

impl fmt::Display for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("what --token-file names"),
            Self::Variable => f.write_str("what MOORLINE_TOKEN holds"),
            Self::VariableFile => f.write_str("what MOORLINE_TOKEN_FILE names"),
            Self::NamedProfile => f.write_str("that of the profile that was named"),
            Self::Login(login) => write!(f, "that of the login at {}", login.endpoint.url),
            Self::ChosenProfile => f.write_str("that of the chosen profile"),
            Self::Local => f.write_str("that of this machine's 'moorline up'"),
        }
    }
}

/// The endpoint that flags, environment, login and profile agree on, and where its token is from. A login whose token is
/// about to end is refreshed first, by asking the control plane.
pub(super) async fn endpoint(
    args: &ConnectionArgs,
    environment: &Environment,
) -> Result<(Endpoint, TokenSource), Failure> {
    let profiles = Profiles::load(environment.config.as_deref())?;
    let place = Place::of(args, environment, &profiles)?;
    let mut endpoint = place.endpoint()?;
    let Some((token, source)) = place.token(&endpoint).await? else {
        let url = endpoint.url;
        return Err(ConnectionError::NoToken { url }.into());
    };
    endpoint.token = Some(token);
    known(&endpoint)?;
    Ok((endpoint, source))
}

/// The login at the control plane that is meant, and the source of a token that goes before it, if there is one.
pub(super) fn login(
    args: &ConnectionArgs,
    environment: &Environment,
) -> Result<(Login, Option<TokenSource>), Failure> {
    let profiles = Profiles::load(environment.config.as_deref())?;
    let place = Place::of(args, environment, &profiles)?;
    let endpoint = place.endpoint()?;
    known(&endpoint)?;
    Ok((Login::at(endpoint, place.folder)?, place.said()))
}

/// Whether it is known whom to trust there.
fn known(endpoint: &Endpoint) -> Result<(), ConnectionError> {
    let url = endpoint.url.clone();
    if url.is_secure() && endpoint.trust == Trust::Nobody {
        return Err(ConnectionError::NoAuthority { url });
    }
    Ok(())
}

/// Where it may stand what is needed beside the address.
struct Place<'a> {
    args: &'a ConnectionArgs,
    environment: &'a Environment,
    profile: Option<&'a Profile>,
    /// Where a token of the profile is from that was not named.
    unnamed: TokenSource,
    /// What the profile's paths begin in.
    folder: &'a Path,
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

impl<'a> Place<'a> {
    fn of(
        args: &'a ConnectionArgs,
        environment: &'a Environment,
        profiles: &'a Profiles,
    ) -> Result<Self, Failure> {
        let chosen = profiles.chosen(args.profile.as_ref(), environment.profile.as_deref())?;
        // Its token is for its own address alone.
        let elsewhere = args.url.is_some() || environment.url.is_some();
        let local = environment.local.as_ref().filter(|_| !elsewhere);
        let (profile, unnamed) = match (chosen, local) {
            (None, Some(local)) => (Some(local), TokenSource::Local),
            (chosen, _) => (chosen, TokenSource::ChosenProfile),
        };
        Ok(Self {
            args,
            environment,
            profile,
            unnamed,
            folder: profiles.folder(),
        })
    }

    /// The endpoint, without a token.
    fn endpoint(&self) -> Result<Endpoint, Failure> {
        Ok(Endpoint {
            url: url(self.args, self.environment, self.profile)?,
            trust: self.trust()?,
            identity: None,
            token: None,
            on_behalf_of: None,
            retries: Retries::INTERACTIVE,
        })
    }

    /// The token that is sent, and where it is from.
    async fn token(&self, endpoint: &Endpoint) -> Result<Option<(Token, TokenSource)>, Failure> {
        if let Some(source) = self.said() {
            let token = self.read(&source)?;
            return Ok(token.map(|token| (token, source)));
        }
        // Where no login can be kept, nobody is logged in.
        if let Ok(login) = Login::at(endpoint.clone(), self.folder)
            && let Some(token) = login.token().await?
        {
            return Ok(Some((token, TokenSource::Login(Box::new(login)))));
        }
        let token = self.token_of_profile().transpose()?;
        Ok(token.map(|token| (token, self.unnamed.clone())))
    }

    /// The source of a token that was named for this command.
    fn said(&self) -> Option<TokenSource> {
        let named = self.args.profile.is_some() || self.environment.profile.is_some();
        if self.args.token_file.is_some() {
            Some(TokenSource::Flag)
        } else if self.environment.token.is_some() {
            Some(TokenSource::Variable)
        } else if self.environment.token_file.is_some() {
            Some(TokenSource::VariableFile)
        } else {
            let has_token = self.profile.is_some_and(Profile::has_token);
            (named && has_token).then_some(TokenSource::NamedProfile)
        }
    }

    /// Whom to trust. Where nothing says it, it is the authority whose certificate lies beside the token's file, as it does
    /// in the folder of a control plane's state.
    fn trust(&self) -> Result<Trust, Failure> {
        let profile = self.profile;
        let of_profile = profile.and_then(|profile| profile.ca_file.as_ref());
        let digest_of_profile = profile.and_then(|profile| profile.ca_digest.as_deref());
        if let Some(path) = &self.args.ca_file {
            return of_file("what --ca-file names", path);
        }
        if let Some(digest) = self.args.ca_digest {
            return Ok(Trust::Digest(digest));
        }
        if let Some(path) = &self.environment.ca_file {
            return of_file("what MOORLINE_CA_FILE names", path);
        }
        if let Some(text) = &self.environment.ca_digest {
            return of_digest("the digest in MOORLINE_CA_DIGEST", text);
        }
        match (of_profile, digest_of_profile) {
            (Some(path), _) => of_file("the profile's CA file", &self.folder.join(path)),
            (None, Some(text)) => of_digest("the digest in the profile", text),
            (None, None) => self.trust_beside_token(),
        }
    }

    fn trust_beside_token(&self) -> Result<Trust, Failure> {
        let beside = self.token_file().map(|file| file.with_file_name("ca.pem"));
        match beside.filter(|path| path.exists()) {
            Some(path) => of_file("the ca.pem beside the token's file", &path),
            None => Ok(Trust::Nobody),
        }
    }

    /// The file that the token is in, if it is in one.
    fn token_file(&self) -> Option<PathBuf> {
        let flag = self.args.token_file.clone();
        let environment = || self.environment.token_file.clone();
        let profile = || Some(self.folder.join(self.profile?.token_file.as_ref()?));
        match &self.environment.token {
            Some(_) => flag,
            None => flag.or_else(environment).or_else(profile),
        }
    }

    /// The token of a source that was named for this command, or of the profile.
    fn read(&self, source: &TokenSource) -> Result<Option<Token>, Failure> {
        let (flag, environment) = (self.args.token_file.as_ref(), self.environment);
        let token = match source {
            TokenSource::Flag => flag.map(|path| token_of_file("what --token-file names", path)),
            TokenSource::Variable => {
                let text = environment.token.as_ref();
                text.map(|text| token_of_text("MOORLINE_TOKEN", text))
            }
            TokenSource::VariableFile => {
                let path = environment.token_file.as_ref();
                path.map(|path| token_of_file("what MOORLINE_TOKEN_FILE names", path))
            }
            TokenSource::NamedProfile
            | TokenSource::ChosenProfile
            | TokenSource::Local
            | TokenSource::Login(_) => self.token_of_profile(),
        };
        token.transpose()
    }

    /// The token of the profile, if it has one.
    fn token_of_profile(&self) -> Option<Result<Token, Failure>> {
        let profile = self.profile?;
        match (&profile.token, &profile.token_file) {
            (Some(secret), _) => Some(token_of_text("the profile's token", secret.reveal())),
            (None, Some(path)) => {
                let path = self.folder.join(path);
                Some(token_of_file("the profile's token file", &path))
            }
            (None, None) => None,
        }
    }
}

fn token_of_text(whose: &'static str, text: &str) -> Result<Token, Failure> {
    let token = text.parse();
    Ok(token.map_err(|source| ConnectionError::Token { whose, source })?)
}

fn token_of_file(whose: &'static str, path: &Path) -> Result<Token, Failure> {
    let token = Token::read(path);
    Ok(token.map_err(|source| ConnectionError::Token { whose, source })?)
}

fn of_file(whose: &'static str, path: &Path) -> Result<Trust, Failure> {
    let read = Authority::read(path).map(Trust::Authority);
    Ok(read.map_err(|source| ConnectionError::Authority { whose, source })?)
}

fn of_digest(what: &'static str, text: &str) -> Result<Trust, Failure> {
    let digest = text.parse().map(Trust::Digest);
    digest.map_err(|error: AuthorityDigestError| Failure::argument(what, text, error))
}

#[cfg(test)]
mod tests {
    use super::{
        ConnectionArgs, Endpoint, Environment, LocalDeployment, Login, Trust, config_path, endpoint, local,
    };
    use std::path::PathBuf;

    const CONFIG: &str = "chosen = \"lab\"\n\
        [profiles.admin]\nurl = \"https://logged-in:5\"\nca_file = \"ca.pem\"\ntoken = \"of-admin\"\n\
        [profiles.bare]\nurl = \"https://logged-in:5\"\nca_file = \"ca.pem\"\n\
        [profiles.lab]\nurl = \"https://lab:1\"\nca_digest = \"sha256:0000000000000000000000000000000000000000000000000000000000000000\"\ntoken = \"of-lab\"\n\
        [profiles.other]\nurl = \"https://other:2\"\ntoken_file = \"other.token\"\n";

    /// A certificate as a control plane has it.
    fn authority() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&key).unwrap().pem()
    }

    fn found(args: &ConnectionArgs, set: impl FnOnce(&mut Environment)) -> Result<Endpoint, String> {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.toml");
        std::fs::write(&config, CONFIG).unwrap();
        std::fs::write(folder.path().join("other.token"), "of-other\n").unwrap();
        std::fs::write(folder.path().join("ca.pem"), authority()).unwrap();
        let mut environment = Environment {
            config: Some(config),
            ..Environment::default()
        };
        Login::keep_for_tests(folder.path(), "https://logged-in:5", "of-login");
        set(&mut environment);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let found = runtime.block_on(endpoint(args, &environment));
        found
            .map(|(endpoint, _)| endpoint)
            .map_err(|failure| failure.to_string())
    }

    fn asked(args: &ConnectionArgs, set: impl FnOnce(&mut Environment)) -> Result<(String, String), String> {
        let endpoint = found(args, set)?;
        let header = endpoint.token.unwrap().header();
        Ok((endpoint.url.to_string(), header.to_str().unwrap().to_owned()))
    }

    fn pair(url: &str, token: &str) -> (String, String) {
        (url.to_owned(), format!("Bearer {token}"))
    }

    #[test]
    fn flags_come_before_the_environment_and_that_before_the_profile() {
        let none = ConnectionArgs::default();
        assert_eq!(asked(&none, |_| ()).unwrap(), pair("https://lab:1", "of-lab"));
        let other = |environment: &mut Environment| environment.profile = Some("other".into());
        assert_eq!(asked(&none, other).unwrap(), pair("https://other:2", "of-other"));
        let both = |environment: &mut Environment| {
            environment.url = Some("https://env:3".into());
            environment.token = Some("of-env".into());
        };
        assert_eq!(asked(&none, both).unwrap(), pair("https://env:3", "of-env"));
        let flags = ConnectionArgs {
            url: Some("https://flag:4".parse().unwrap()),
            profile: Some("other".parse().unwrap()),
            ..ConnectionArgs::default()
        };
        assert_eq!(
            asked(&flags, |environment| environment.url =
                Some("https://env:3".into()))
            .unwrap(),
            pair("https://flag:4", "of-other")
        );
    }

    #[test]
    fn a_login_goes_before_a_chosen_profile_and_after_one_that_is_named() {
        let none = ConnectionArgs::default();
        let here = "https://logged-in:5";
        let as_admin = ConnectionArgs {
            profile: Some("admin".parse().unwrap()),
            ..ConnectionArgs::default()
        };
        assert_eq!(asked(&as_admin, |_| ()).unwrap(), pair(here, "of-admin"));
        let by_variable = |environment: &mut Environment| environment.profile = Some("admin".into());
        assert_eq!(asked(&none, by_variable).unwrap(), pair(here, "of-admin"));
        let bare = |environment: &mut Environment| environment.profile = Some("bare".into());
        assert_eq!(asked(&none, bare).unwrap(), pair(here, "of-login"));
        let chosen = |environment: &mut Environment| {
            let config = environment.config.as_ref().unwrap();
            let text = CONFIG.replace("\"lab\"\n", "\"admin\"\n");
            std::fs::write(config, text).unwrap();
        };
        assert_eq!(asked(&none, chosen).unwrap(), pair(here, "of-login"));
    }

    #[test]
    fn where_nothing_is_said_it_is_the_deployment_of_this_machine() {
        let none = ConnectionArgs::default();
        let folder = tempfile::tempdir().unwrap();
        let deployment = LocalDeployment::at(folder.path());
        assert!(local(&deployment).is_none(), "it was never begun");
        std::fs::create_dir(deployment.control()).unwrap();
        std::fs::write(deployment.token_file(), "of-local\n").unwrap();
        std::fs::write(deployment.control().join("ca.pem"), authority()).unwrap();
        std::fs::write(deployment.url_file(), "https://127.0.0.1:6\n").unwrap();
        let alone = |environment: &mut Environment| {
            environment.config = None;
            environment.local = local(&deployment);
        };
        assert_eq!(
            asked(&none, alone).unwrap(),
            pair("https://127.0.0.1:6", "of-local")
        );
        let chosen = |environment: &mut Environment| environment.local = local(&deployment);
        assert_eq!(asked(&none, chosen).unwrap(), pair("https://lab:1", "of-lab"));
        let elsewhere = |environment: &mut Environment| {
            alone(environment);
            environment.url = Some("https://env:3".into());
        };
        let refused = asked(&none, elsewhere).unwrap_err();
        assert!(
            refused.contains("there is no token for https://env:3"),
            "{refused}"
        );
    }

    #[test]
    fn the_authority_is_the_profiles_or_the_one_beside_the_token() {
        let none = ConnectionArgs::default();
        let lab = found(&none, |_| ()).unwrap();
        assert!(matches!(lab.trust, Trust::Digest(_)), "{:?}", lab.trust);
        let other = |environment: &mut Environment| environment.profile = Some("other".into());
        let other = found(&none, other).unwrap();
        assert!(matches!(other.trust, Trust::Authority(_)), "{:?}", other.trust);
        let digest = format!("sha256:{}", "1".repeat(64));
        let of_environment = |environment: &mut Environment| environment.ca_digest = Some(digest.clone());
        let environment = found(&none, of_environment).unwrap();
        assert_eq!(environment.trust, Trust::Digest(digest.parse().unwrap()));
        let flags = ConnectionArgs {
            ca_file: Some("/nowhere/ca.pem".into()),
            ..ConnectionArgs::default()
        };
        let missing = found(&flags, |_| ()).unwrap_err();
        assert!(missing.contains("--ca-file"), "{missing}");
        let nobody = |environment: &mut Environment| {
            environment.config = None;
            environment.token = Some("x".into());
        };
        let nobody = found(&none, nobody).unwrap_err();
        assert!(nobody.contains("ca.pem with --ca-file"), "{nobody}");
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
