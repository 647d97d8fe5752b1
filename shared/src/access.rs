//! Who may do what with an entry: rights, subjects, and the clauses that join them.
//!
//! Only the words are here. The decision is one function of the control plane, which knows groups, tags and accounts.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::{GroupName, IdError, InstanceId, ServiceName, UserName, serde_as_text};

/// What may be done with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// See that it exists, its value and its history.
    Read,
    /// Give it another value, or create it.
    Update,
    /// Add to the end of its value.
    Append,
    /// Remove it.
    Delete,
    /// Change who may do what with it.
    Administer,
}

impl Right {
    /// Every right, in the order in which they are shown.
    pub const ALL: [Self; 5] = [
        Self::Read,
        Self::Update,
        Self::Append,
        Self::Delete,
        Self::Administer,
    ];

    /// The right's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Update => "update",
            Self::Append => "append",
            Self::Delete => "delete",
            Self::Administer => "administer",
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Right {
    type Err = AccessError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|right| right.as_str() == text);
        found.ok_or_else(|| AccessError::Right(text.chars().take(64).collect()))
    }
}

/// A set of rights; a list of their words in JSON.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Rights(u8);

impl Rights {
    /// No right.
    pub const NONE: Self = Self(0);
    /// Every right.
    pub const ALL: Self = Self(0b1_1111);

    /// This right alone.
    pub const fn only(right: Right) -> Self {
        Self(1 << right as u8)
    }

    /// The rights of either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The rights of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The set less this right.
    #[must_use]
    pub const fn without(self, right: Right) -> Self {
        Self(self.0 & !(1 << right as u8))
    }

    /// Whether `right` is in the set.
    pub const fn has(self, right: Right) -> bool {
        self.0 & (1 << right as u8) != 0
    }

    /// Whether no right is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The rights in the set, in the order of [`Right::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Right> {
        Right::ALL.into_iter().filter(move |right| self.has(*right))
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Self {
        rights
            .into_iter()
            .fold(Self::NONE, |all, right| all.or(Self::only(right)))
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Serialize for Rights {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Rights {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Vec::<Right>::deserialize(d).map(Self::from_iter)
    }
}

/// Whom a clause speaks of: `owner`, `account`, `user:NAME`, `instance:ID`, `group:NAME`, `tag:KEY=VALUE` or
/// `service:NAME` as text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The instance that the entry belongs to.
    Owner,
    /// Every user and every instance of the entry's account.
    Account,
    /// One user.
    User(UserName),
    /// One instance, of whatever account.
    Instance(InstanceId),
    /// Every user and every instance in a group of the entry's account.
    Group(GroupName),
    /// Every instance of the entry's account that carries the tag.
    Tag(Tag),
    /// One service of the control plane.
    Service(ServiceName),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner => f.write_str("owner"),
            Self::Account => f.write_str("account"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Instance(id) => write!(f, "instance:{id}"),
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Tag(tag) => write!(f, "tag:{tag}"),
            Self::Service(name) => write!(f, "service:{name}"),
        }
    }
}

impl FromStr for Subject {
    type Err = AccessError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "owner" => Ok(Self::Owner),
            None if text == "account" => Ok(Self::Account),
            Some(("user", name)) => Ok(Self::User(name.parse()?)),
            Some(("instance", id)) => Ok(Self::Instance(id.parse()?)),
            Some(("group", name)) => Ok(Self::Group(name.parse()?)),
            Some(("tag", tag)) => Ok(Self::Tag(tag.parse()?)),
            Some(("service", name)) => Ok(Self::Service(name.parse()?)),
            _ => Err(AccessError::Subject(text.chars().take(64).collect())),
        }
    }
}

serde_as_text!(Subject);

/// A tag of an instance: `KEY=VALUE` as text, each of 1 to 128 printable characters; the key holds no `=`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    key: Box<str>,
    value: Box<str>,
}

impl Tag {
    /// What comes before the `=`.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What comes after it.
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

impl FromStr for Tag {
    type Err = AccessError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = |part: &str| (1..=128).contains(&part.len()) && !part.chars().any(char::is_control);
        match text.split_once('=') {
            Some((key, value)) if valid(key) && valid(value) => Ok(Self {
                key: key.into(),
                value: value.into(),
            }),
            _ => Err(AccessError::Tag(text.chars().take(64).collect())),
        }
    }
}

serde_as_text!(Tag);

/// Rights for a subject.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Clause {
    /// Who gets them.
    pub subject: Subject,
    /// What they get; rights that are not named are not given.
    pub rights: Rights,
}

/// The clauses of an entry, 64 at most. An entry without clauses follows the stated default.
///
/// The default: administrators of the account hold every right, the instance reads its own entries and writes those
/// it made itself, and entries of the provider are read-only for all. With clauses, only what they give is given;
/// administrators keep `administer` and `read`, so that no entry is ever out of everybody's reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<Clause>")]
pub struct AccessList(Vec<Clause>);

impl AccessList {
    /// The most clauses of an entry.
    pub const MAX_CLAUSES: usize = 64;

    /// The clauses in the order in which they were given.
    pub fn clauses(&self) -> &[Clause] {
        &self.0
    }

    /// Whether the default applies.
    pub fn is_default(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<Vec<Clause>> for AccessList {
    type Error = AccessError;

    fn try_from(clauses: Vec<Clause>) -> Result<Self, Self::Error> {
        if clauses.len() > Self::MAX_CLAUSES {
            Err(AccessError::TooMany(clauses.len()))
        } else {
            Ok(Self(clauses))
        }
    }
}

/// Why something is not access-control information.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Over [`AccessList::MAX_CLAUSES`].
    #[error("an entry has {0} access clauses; the most is {max}", max = AccessList::MAX_CLAUSES)]
    TooMany(usize),
    /// Not a right's word.
    #[error("'{0}' is not a right: the rights are read, update, append, delete, administer")]
    Right(String),
    /// Not a subject.
    #[error(
        "'{0}' is not a subject: write owner, account, user:NAME, instance:ID, group:NAME, tag:KEY=VALUE or \
         service:NAME"
    )]
    Subject(String),
    /// Not a tag.
    #[error("'{0}' is not a tag: write KEY=VALUE, each of 1 to 128 printable characters")]
    Tag(String),
    /// A subject's name is wrong.
    #[error("{0}")]
    Name(IdError),
}

impl From<IdError> for AccessError {
    fn from(error: IdError) -> Self {
        Self::Name(error)
    }
}

#[cfg(test)]
mod tests {
    use super::{AccessList, Clause, Right, Rights, Subject};

    #[test]
    fn a_clause_reads_as_people_write_it() {
        let clause: Clause =
            serde_json::from_str(r#"{"subject":"tag:role=web","rights":["read","append"]}"#).unwrap();
        assert_eq!(clause.rights, [Right::Append, Right::Read].into_iter().collect());
        assert!(matches!(&clause.subject, Subject::Tag(tag) if tag.key() == "role" && tag.value() == "web"));
        assert!(Rights::ALL.iter().eq(Right::ALL));
        let group: Subject = "group:operators".parse().unwrap();
        assert!(matches!(&group, Subject::Group(name) if name.as_str() == "operators"));
        assert_eq!(group.to_string(), "group:operators");
        assert!("group:".parse::<Subject>().is_err());
    }

    #[test]
    fn the_sixty_fifth_clause_is_refused_with_the_bound() {
        let clauses = vec![
            Clause {
                subject: Subject::Owner,
                rights: Rights::ALL
            };
            65
        ];
        assert!(
            AccessList::try_from(clauses)
                .unwrap_err()
                .to_string()
                .contains("64")
        );
    }
}
