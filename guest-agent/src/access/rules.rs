//! The rules, read from a file once.

use std::io;
use std::path::{Path, PathBuf};

use moorline_shared::PathPrefix;

use super::{Names, Peer, User};

/// The longest file of rules, in bytes.
const MOST_BYTES: u64 = 256 * 1024;
/// The superuser: what the agent knows it can read anyway.
pub const ROOT: u32 = 0;

/// How an entry is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing is said of it.
    Ordinary,
    /// It is secret, or nobody here knows that it isn't.
    Secret,
}

/// Who may read what. The longest prefix that covers a path decides; without one everyone may read what isn't secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The longest prefix first.
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    prefix: PathPrefix,
    who: Vec<Who>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Who {
    All,
    User(u32),
    Group { id: u32, members: Vec<u32> },
}

/// The rules can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The file can't be read.
    #[error("can't read the access rules {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line of it says nothing that can be followed.
    #[error("{}, line {line}: {wrong}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, and what to do.
        wrong: LineError,
    },
}

/// What is wrong with a line of rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// The prefix is no path.
    #[error("'{prefix}' is no prefix: {why}; write a path such as app/db, or / for everything")]
    Prefix {
        /// As it is written.
        prefix: String,
        /// Why.
        why: moorline_shared::path::PathError,
    },
    /// Nobody is named.
    #[error("'{0}' has nobody behind it; name users, @groups, or write all or root")]
    Nobody(String),
    /// No such user.
    #[error("there is no user '{0}' in /etc/passwd; write the number of one that is elsewhere")]
    User(String),
    /// No such group.
    #[error("there is no group '{0}' in /etc/group; write the number of one that is elsewhere")]
    Group(String),
    /// Two lines for one prefix.
    #[error("'{0}' has a line already; put everyone on that one")]
    Twice(String),
}

impl Rules {
    /// The rules in the file at `path`.
    pub fn read(path: &Path) -> Result<Self, RulesError> {
        let failed = |source| RulesError::Read {
            path: path.into(),
            source,
        };
        let length = path.metadata().map_err(failed)?.len();
        if length > MOST_BYTES {
            let error = format!("it has {length} bytes, and the most is {MOST_BYTES}");
            return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, error)));
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        Self::parse(&text, &Names::of_this_machine()).map_err(|(line, wrong)| RulesError::Line {
            path: path.into(),
            line,
            wrong,
        })
    }

    /// The rules in the file at `path`, or none if it isn't there.
    pub fn read_if_there(path: &Path) -> Result<Self, RulesError> {
        match Self::read(path) {
            Err(RulesError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            rules => rules,
        }
    }

    /// The rules that `text` writes: a line `PREFIX WHO...` for each. An error comes with its line, from 1.
    pub fn parse(text: &str, names: &Names) -> Result<Self, (usize, LineError)> {
        let mut rules: Vec<Rule> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let said = line.split_once('#').map_or(line, |(said, _)| said);
            let Some(rule) = Rule::parse(said, names).map_err(|wrong| (number, wrong))? else {
                continue;
            };
            if rules.iter().any(|other| other.prefix == rule.prefix) {
                return Err((number, LineError::Twice(shown(&rule.prefix))));
            }
            rules.push(rule);
        }
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.prefix.as_str().len()));
        Ok(Self { rules })
    }

    /// Whether `peer` may read what is under `path`. Root may read everything. A secret is read by those whom a rule
    /// names; `all` doesn't name anybody.
    pub fn may_read(&self, peer: &Peer, path: &str, content: Content) -> bool {
        if peer.user() == User::Known(ROOT) {
            return true;
        }
        match self.rules.iter().find(|rule| rule.prefix.covers(path)) {
            None => content == Content::Ordinary,
            Some(rule) => rule.who.iter().any(|who| who.admits(peer, content)),
        }
    }

    /// Whether there may be anything below `prefix` that `peer` may read.
    pub fn may_read_below(&self, peer: &Peer, prefix: &str) -> bool {
        let is_inside = |rule: &&Rule| {
            let rest = rule.prefix.as_str().strip_prefix(prefix);
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        let admits = |rule: &Rule| rule.who.iter().any(|who| who.admits(peer, Content::Ordinary));
        let mut inside = self.rules.iter().filter(is_inside);
        self.may_read(peer, prefix, Content::Ordinary) || inside.any(admits)
    }
}

impl Rule {
    /// The rule on a line; none on one without words.
    fn parse(line: &str, names: &Names) -> Result<Option<Self>, LineError> {
        let mut words = line.split_whitespace();
        let Some(prefix) = words.next() else {
            return Ok(None);
        };
        let who: Vec<Who> = words
            .map(|word| Who::parse(word, names))
            .collect::<Result<_, _>>()?;
        if who.is_empty() {
            return Err(LineError::Nobody(prefix.to_owned()));
        }
        Ok(Some(Self {
            prefix: parse_prefix(prefix)?,
            who,
        }))
    }
}

fn parse_prefix(text: &str) -> Result<PathPrefix, LineError> {
    if text == "/" {
        return Ok(PathPrefix::ALL);
    }
    text.parse().map_err(|why| LineError::Prefix {
        prefix: text.to_owned(),
        why,
    })
}

fn shown(prefix: &PathPrefix) -> String {
    match prefix.as_str() {
        "" => "/".to_owned(),
        path => path.to_owned(),
    }
}

impl Who {
    fn parse(word: &str, names: &Names) -> Result<Self, LineError> {
        if word == "all" {
            return Ok(Self::All);
        }
        if let Some(group) = word.strip_prefix('@') {
            let found = names.group(group);
            let (id, members) = found.ok_or_else(|| LineError::Group(group.to_owned()))?;
            return Ok(Self::Group { id, members });
        }
        // Root has this name on every machine, whatever its account files say.
        let user = if word == "root" {
            Some(ROOT)
        } else {
            names.user(word)
        };
        user.map(Self::User)
            .ok_or_else(|| LineError::User(word.to_owned()))
    }

    fn admits(&self, peer: &Peer, content: Content) -> bool {
        match self {
            Self::All => content == Content::Ordinary,
            Self::User(user) => peer.user() == User::Known(*user),
            Self::Group { id, members } => peer.is_of(*id, members),
        }
    }
}
