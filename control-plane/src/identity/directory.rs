//! What the store keeps of users and groups: the directory `local`.
//!
//! Access clauses name users and groups, so a name is never given twice: whoever came to it later would have what was
//! meant for another. A [`FormerRecord`] stays for each that was removed.

use std::collections::BTreeSet;

use moorline_shared::api::identity::{AccountRole, User, UserState};
use moorline_shared::entry::Value;
use moorline_shared::id::{DirectoryName, GroupName};
use moorline_shared::{AccountId, Principal, Timestamp, UserName};
use serde::{Deserialize, Serialize};

use crate::model::Role;
use crate::model::record::{Record, key};
use crate::store::Key;

/// The directory that the store keeps.
pub fn local() -> DirectoryName {
    "local".parse().expect("this is a name")
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    /// Their name.
    pub name: UserName,
    /// The account that they are of.
    pub account: AccountId,
    /// What they are there.
    pub role: AccountRole,
    /// Whether they can be logged in.
    pub state: UserState,
    /// The hash of their password, under the master key; `None` if they have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Value>,
    /// When they were made.
    pub created_at: Timestamp,
}

impl UserRecord {
    /// The user as the account's administrators see them.
    pub fn shown(self) -> User {
        User {
            user: self.name,
            directory: local(),
            account: self.account,
            role: self.role,
            state: self.state,
            has_password: self.password.is_some(),
            created_at: self.created_at,
        }
    }

    /// Who they act as.
    pub fn principal(&self) -> Principal {
        Principal::User(self.name.clone())
    }
}

/// What a user's role means for the rules.
pub const fn role(role: AccountRole) -> Role {
    match role {
        AccountRole::Administrator => Role::Administrator,
        AccountRole::Member => Role::Member,
    }
}

impl Record for UserRecord {
    const KIND: &'static str = "user";
    const FENCED: bool = true;
    const SCOPE_SEGMENTS: usize = 0;
    type Id = UserName;
    type Collection = ();

    fn key(name: &UserName) -> Key {
        key(format!("user/{name}").as_bytes())
    }

    fn own_key(&self) -> Key {
        Self::key(&self.name)
    }

    fn prefix((): &()) -> String {
        "user/".to_owned()
    }
}

/// How many users there are, so that the next one needs no look at all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserCountRecord {
    /// So many.
    pub users: usize,
}

impl Record for UserCountRecord {
    const KIND: &'static str = "user-count";
    const FENCED: bool = false;
    const SCOPE_SEGMENTS: usize = 0;
    type Id = ();
    type Collection = ();

    fn key((): &()) -> Key {
        key(b"user-count/all")
    }

    fn own_key(&self) -> Key {
        Self::key(&())
    }

    fn prefix((): &()) -> String {
        "user-count/".to_owned()
    }
}

/// A group of users or instances, in one account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// Whose it is.
    pub account: AccountId,
    /// Its name.
    pub name: GroupName,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Record for GroupRecord {
    const KIND: &'static str = "group";
    const FENCED: bool = true;
    const SCOPE_SEGMENTS: usize = 1;
    type Id = (AccountId, GroupName);
    type Collection = AccountId;

    fn key((account, name): &Self::Id) -> Key {
        key(format!("group/{account}/{name}").as_bytes())
    }

    fn own_key(&self) -> Key {
        key(format!("group/{}/{}", self.account, self.name).as_bytes())
    }

    fn prefix(of: &AccountId) -> String {
        format!("group/{of}/")
    }
}

/// Somebody's place in a group, as the group has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// The group's account.
    pub account: AccountId,
    /// The group.
    pub group: GroupName,
    /// Who is in it.
    pub member: Principal,
}

impl Record for MemberRecord {
    const KIND: &'static str = "group-member";
    const FENCED: bool = true;
    const SCOPE_SEGMENTS: usize = 2;
    type Id = (AccountId, GroupName, Principal);
    type Collection = (AccountId, GroupName);

    fn key((account, group, member): &Self::Id) -> Key {
        key(format!("group-member/{account}/{group}/{member}").as_bytes())
    }

    fn own_key(&self) -> Key {
        key(format!("group-member/{}/{}/{}", self.account, self.group, self.member).as_bytes())
    }

    fn prefix((account, group): &Self::Collection) -> String {
        format!("group-member/{account}/{group}/")
    }
}

/// The same as its member has it, so that the groups of whoever asks are found by who they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipRecord {
    /// Who is in it.
    pub member: Principal,
    /// The group's account.
    pub account: AccountId,
    /// The group.
    pub group: GroupName,
}

impl From<&MemberRecord> for MembershipRecord {
    fn from(of: &MemberRecord) -> Self {
        Self {
            member: of.member.clone(),
            account: of.account.clone(),
            group: of.group.clone(),
        }
    }
}

impl MembershipRecord {
    /// The place that the key `membership/REST` is of.
    pub fn named(rest: &str) -> Option<Self> {
        let mut segments = rest.split('/');
        let mut next = || segments.next();
        Some(Self {
            member: next()?.parse().ok()?,
            account: next()?.parse().ok()?,
            group: next()?.parse().ok()?,
        })
    }

    /// What the keys of all instances' places begin with.
    pub fn of_instances() -> String {
        format!("{}/instance:", Self::KIND)
    }
}

impl Record for MembershipRecord {
    const KIND: &'static str = "membership";
    const FENCED: bool = true;
    const SCOPE_SEGMENTS: usize = 1;
    type Id = (Principal, AccountId, GroupName);
    type Collection = Principal;

    fn key((member, account, group): &Self::Id) -> Key {
        key(format!("membership/{member}/{account}/{group}").as_bytes())
    }

    fn own_key(&self) -> Key {
        key(format!("membership/{}/{}/{}", self.member, self.account, self.group).as_bytes())
    }

    fn prefix(of: &Principal) -> String {
        format!("membership/{of}/")
    }
}

/// The groups of `account` among these places in groups. No other account's groups count there.
pub fn groups_in(
    account: &AccountId,
    places: impl IntoIterator<Item = MembershipRecord>,
) -> BTreeSet<GroupName> {
    let here = places.into_iter().filter(|place| place.account == *account);
    here.map(|place| place.group).collect()
}

/// A name that was a user's or a group's, and that nobody is given any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerRecord {
    /// The name.
    pub name: Former,
    /// When whoever had it was removed.
    pub removed_at: Timestamp,
}

/// Who had a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Former {
    /// A user.
    User(UserName),
    /// A group of an account.
    Group(AccountId, GroupName),
}

impl Record for FormerRecord {
    const KIND: &'static str = "former";
    const FENCED: bool = false;
    const SCOPE_SEGMENTS: usize = 0;
    type Id = Former;
    type Collection = ();

    fn key(name: &Former) -> Key {
        match name {
            Former::User(name) => key(format!("former/user/{name}").as_bytes()),
            Former::Group(account, name) => key(format!("former/group/{account}/{name}").as_bytes()),
        }
    }

    fn own_key(&self) -> Key {
        Self::key(&self.name)
    }

    fn prefix((): &()) -> String {
        "former/".to_owned()
    }
}
