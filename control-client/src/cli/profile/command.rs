//! `moorline profile`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Profile, ProfileName, Profiles, Secret};
use crate::cli::args::ConnectionArgs;
use crate::cli::connection::Environment;
use crate::cli::failure::Failure;
use crate::cli::input;
use crate::cli::out::Out;
use crate::cli::table::{Table, or_dash, pairs};
use crate::token::Token;

const EXAMPLES: &str = "\
Examples:
  moorline profile set lab --url https://control:8471 --ca-file ca.pem --token-file admin.token
  moorline profile set lab --token-stdin < admin.token
  moorline profile use lab";

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ProfileCommand {
    /// Make a profile, or change what is given of one. The first one made is chosen.
    #[command(after_help = EXAMPLES)]
    Set(SetArgs),
    /// List the profiles; the chosen one has a star.
    List,
    /// Show a profile, without its token. A login at its address goes before that token, unless a command names the
    /// profile; 'moorline whoami' says which token is sent.
    Show {
        /// Which; the one that commands would use if absent.
        name: Option<ProfileName>,
    },
    /// Choose the profile that is used where none is named.
    Use {
        /// Which.
        name: ProfileName,
    },
    /// Remove a profile.
    Remove {
        /// Which.
        name: ProfileName,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SetArgs {
    /// Its name.
    name: ProfileName,
    /// Read the token from the standard input and keep it in the profile file, which only its owner can read.
    #[arg(long, conflicts_with = "token_file")]
    token_stdin: bool,
}

/// A profile as it is shown.
#[derive(Serialize)]
struct Shown {
    name: String,
    chosen: bool,
    url: Option<String>,
    ca: Option<String>,
    token: TokenPlace,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum TokenPlace {
    Absent,
    Kept,
    File(String),
}

impl std::fmt::Display for TokenPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent => f.write_str("-"),
            Self::Kept => f.write_str("(kept in the profile file)"),
            Self::File(path) => f.write_str(path),
        }
    }
}

pub(in crate::cli) fn run(
    command: ProfileCommand,
    flags: &ConnectionArgs,
    environment: &Environment,
    out: &mut Out,
) -> Result<(), Failure> {
    let mut profiles = Profiles::load(environment.config.as_deref())?;
    match command {
        ProfileCommand::Set(args) => set(&mut profiles, &args, flags, out),
        ProfileCommand::List => list(&profiles, out),
        ProfileCommand::Show { name } => {
            let name = name.as_ref().or(flags.profile.as_ref());
            show(&profiles, name, environment.profile.as_deref(), out)
        }
        ProfileCommand::Use { name } => {
            profiles.named(&name.0)?;
            profiles.contents.chosen = Some(name.clone());
            profiles.save()?;
            changed(&shown(&profiles, &name, profiles.named(&name.0)?), out)
        }
        ProfileCommand::Remove { name } => {
            let removed = shown(&profiles, &name, profiles.named(&name.0)?);
            profiles.contents.profiles.remove(&name);
            profiles.contents.chosen.take_if(|chosen| *chosen == name);
            profiles.save()?;
            changed(&removed, out)
        }
    }
}

/// Tells programs what was changed. People see that it is done by the absence of an error.
fn changed(profile: &Shown, out: &mut Out) -> Result<(), Failure> {
    out.show(profile, |_| String::new())
}

fn set(
    profiles: &mut Profiles,
    args: &SetArgs,
    flags: &ConnectionArgs,
    out: &mut Out,
) -> Result<(), Failure> {
    let contents = &mut profiles.contents;
    let profile = contents.profiles.entry(args.name.clone()).or_default();
    if let Some(url) = &flags.url {
        profile.url = Some(url.to_string());
    }
    if let Some(path) = &flags.ca_file {
        profile.ca_file = Some(absolute(path)?);
        profile.ca_digest = None;
    }
    if let Some(digest) = &flags.ca_digest {
        profile.ca_digest = Some(digest.to_string());
        profile.ca_file = None;
    }
    if let Some(path) = &flags.token_file {
        profile.token_file = Some(absolute(path)?);
        profile.token = None;
    }
    if args.token_stdin {
        profile.token = Some(read_token()?);
        profile.token_file = None;
    }
    contents.chosen.get_or_insert(args.name.clone());
    profiles.save()?;
    changed(&shown(profiles, &args.name, profiles.named(&args.name.0)?), out)
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let whole = std::path::absolute(path);
    whole.map_err(|error| Failure::argument("a path", path.display().to_string(), error))
}

fn read_token() -> Result<Secret, Failure> {
    let bytes = input::read_stdin(Token::MAX_BYTES + 2)?;
    let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
    // The token is parsed so that a wrong one is refused now. The text that was given is not shown.
    let parsed = text.parse::<Token>();
    parsed.map_err(|error| Failure::argument("a token", "the standard input", error))?;
    Ok(Secret(text))
}

fn shown(profiles: &Profiles, name: &ProfileName, profile: &Profile) -> Shown {
    Shown {
        name: name.to_string(),
        chosen: profiles.contents.chosen.as_ref() == Some(name),
        url: profile.url.clone(),
        ca: match (&profile.ca_file, &profile.ca_digest) {
            (Some(path), _) => Some(path.display().to_string()),
            (None, digest) => digest.clone(),
        },
        token: match (&profile.token, &profile.token_file) {
            (Some(_), _) => TokenPlace::Kept,
            (None, Some(path)) => TokenPlace::File(path.display().to_string()),
            (None, None) => TokenPlace::Absent,
        },
    }
}

fn list(profiles: &Profiles, out: &mut Out) -> Result<(), Failure> {
    let all = profiles.contents.profiles.iter();
    let all: Vec<_> = all
        .map(|(name, profile)| shown(profiles, name, profile))
        .collect();
    out.show(&all, |all| {
        if all.is_empty() {
            return "there are no profiles: make one with 'moorline profile set NAME --url URL --token-file FILE'\n"
                .to_owned();
        }
        let mut table = Table::new(["", "NAME", "URL", "TOKEN"]);
        for profile in all {
            let star = if profile.chosen { "*" } else { "" };
            let url = or_dash(profile.url.as_ref());
            table.row([
                star.to_owned(),
                profile.name.clone(),
                url,
                profile.token.to_string(),
            ]);
        }
        table.to_string()
    })
}

fn show(
    profiles: &Profiles,
    flag: Option<&ProfileName>,
    environment: Option<&str>,
    out: &mut Out,
) -> Result<(), Failure> {
    let chosen = profiles.contents.chosen.as_ref();
    let name = flag
        .map(|name| name.0.as_str())
        .or(environment)
        .or(chosen.map(|name| name.0.as_str()));
    let Some(name) = name else {
        return out.show(&None::<Shown>, |_| {
            "no profile is chosen: make one with 'moorline profile set NAME --url URL --token-file FILE'"
                .to_owned()
        });
    };
    let profile = profiles.named(name)?;
    let name = ProfileName(name.to_owned());
    out.show(&shown(profiles, &name, profile), |profile| {
        pairs(&[
            ("name", profile.name.clone()),
            ("chosen", if profile.chosen { "yes" } else { "no" }.to_owned()),
            ("url", or_dash(profile.url.as_ref())),
            ("ca", or_dash(profile.ca.as_ref())),
            ("token", profile.token.to_string()),
        ])
    })
}
