//! The profile file: control planes under names, one of them chosen.

pub(super) mod command;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::cli::private_file;

/// The name of a profile: 1 to 63 of `A-Z a-z 0-9 . _ -`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct ProfileName(String);

/// Not the name of a profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a profile's name is 1 to 63 of A-Z a-z 0-9 . _ -")]
pub(super) struct ProfileNameError;

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ProfileName {
    type Err = ProfileNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for ProfileName {
    type Error = ProfileNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if (1..=63).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text))
        } else {
            Err(ProfileNameError)
        }
    }
}

impl From<ProfileName> for String {
    fn from(name: ProfileName) -> Self {
        name.0
    }
}

/// A token as the file holds it; `Debug` hides it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Secret(String);

impl Secret {
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// A control plane under a name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) url: Option<String>,
    /// Where the certificate is that the control plane is known by, beside the profile file if not absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ca_file: Option<PathBuf>,
    /// Its digest, where only that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ca_digest: Option<String>,
    /// The token, where the file itself holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<Secret>,
    /// Where the token is, beside the profile file if not absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token_file: Option<PathBuf>,
}

impl Profile {
    pub(super) fn has_token(&self) -> bool {
        self.token.is_some() || self.token_file.is_some()
    }
}

/// What the file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    /// The profile that is used where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chosen: Option<ProfileName>,
    #[serde(default)]
    profiles: BTreeMap<ProfileName, Profile>,
}

/// The profiles, and the file they are from.
#[derive(Debug)]
pub(super) struct Profiles {
    path: Option<PathBuf>,
    contents: Contents,
}

/// Why profiles can't be had or kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProfileError {
    #[error("the profile file {} can't be read", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// The parser's own text would show the line, and a token may stand in it.
    #[error("line {line} of the profile file {} is wrong: {message}", path.display())]
    Form {
        path: PathBuf,
        line: usize,
        message: String,
    },
    #[error("there is no profile '{name}'{}: see 'moorline profile list'", list(.known))]
    Unknown { name: String, known: Vec<String> },
    #[error("the profile file {} can't be written", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("there is no place for a profile file: set MOORLINE_CONFIG, XDG_CONFIG_HOME or HOME")]
    Nowhere,
    #[error("the profile can't be put into the file")]
    Unwritable(#[source] toml::ser::Error),
}

fn list(names: &[String]) -> String {
    match names {
        [] => String::new(),
        names => format!(" (there is {})", names.join(", ")),
    }
}

impl Profiles {
    /// Reads the file; where there is none, there are no profiles.
    pub(super) fn load(path: Option<&Path>) -> Result<Self, ProfileError> {
        let contents = match path.map(|path| (path, fs::read_to_string(path))) {
            None => Contents::default(),
            Some((path, Ok(text))) => parse(path, &text)?,
            Some((_, Err(error))) if error.kind() == std::io::ErrorKind::NotFound => Contents::default(),
            Some((path, Err(source))) => {
                return Err(ProfileError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        Ok(Self {
            path: path.map(Path::to_owned),
            contents,
        })
    }

    /// Where token files stand that are named without a folder.
    pub(super) fn folder(&self) -> &Path {
        self.path
            .as_deref()
            .and_then(Path::parent)
            .unwrap_or(Path::new(""))
    }

    /// The profile that is named by a flag, else by the environment, else the chosen one, if there is any of them.
    pub(super) fn chosen(
        &self,
        flag: Option<&ProfileName>,
        environment: Option<&str>,
    ) -> Result<Option<&Profile>, ProfileError> {
        let name = flag.map(|name| name.0.as_str()).or(environment);
        match name.or(self.contents.chosen.as_ref().map(|name| name.0.as_str())) {
            Some(name) => self.named(name).map(Some),
            None => Ok(None),
        }
    }

    fn named(&self, name: &str) -> Result<&Profile, ProfileError> {
        let found = self.contents.profiles.iter().find(|(key, _)| key.0 == name);
        found
            .map(|(_, profile)| profile)
            .ok_or_else(|| ProfileError::Unknown {
                name: name.to_owned(),
                known: self.contents.profiles.keys().map(ToString::to_string).collect(),
            })
    }

    /// Writes the file anew, readable by its owner alone, in one step.
    fn save(&self) -> Result<(), ProfileError> {
        let path = self.path.as_deref().ok_or(ProfileError::Nowhere)?;
        let text = toml::to_string(&self.contents).map_err(ProfileError::Unwritable)?;
        private_file::replace(path, text.as_bytes()).map_err(|source| ProfileError::Write {
            path: path.to_owned(),
            source,
        })
    }
}

fn parse(path: &Path, text: &str) -> Result<Contents, ProfileError> {
    toml::from_str(text).map_err(|error| {
        let before = error
            .span()
            .map_or("", |span| &text[..span.start.min(text.len())]);
        ProfileError::Form {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            message: error.message().to_owned(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{ProfileError, Profiles, parse};
    use std::path::Path;

    #[test]
    fn a_mistake_is_named_by_its_line_and_shows_no_token() {
        for (text, line) in [
            ("[profiles.lab]\nurl = \"http://lab\"\ntoken = \"hunter2\n", 3),
            ("chosen = \"lab\"\n[profiles.lab]\ntokn = \"hunter2\"\n", 3),
            ("[profiles.\"a b\"]\ntoken = \"hunter2\"\n", 1),
        ] {
            let error = parse(Path::new("config.toml"), text).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
            assert!(
                matches!(error, ProfileError::Form { line: found, .. } if found == line),
                "{error}"
            );
        }
    }

    #[test]
    fn no_file_is_no_profile_and_nowhere_to_keep_one() {
        let profiles = Profiles::load(None).unwrap();
        assert!(profiles.chosen(None, None).unwrap().is_none());
        assert!(matches!(profiles.save(), Err(ProfileError::Nowhere)));
        let missing = tempfile::tempdir().unwrap().path().join("none");
        assert!(
            Profiles::load(Some(&missing))
                .unwrap()
                .chosen(None, None)
                .unwrap()
                .is_none()
        );
    }
}
