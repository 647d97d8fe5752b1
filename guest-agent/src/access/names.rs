//! Users and groups by their names, from the machine's account files.

use std::collections::BTreeMap;
use std::path::Path;

/// The users and groups that `/etc/passwd` and `/etc/group` name. Other sources of accounts are not asked: such users
/// and groups are given by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    users: BTreeMap<String, Account>,
    groups: BTreeMap<String, Group>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Account {
    user: u32,
    group: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    id: u32,
    members: Vec<String>,
}

impl Names {
    /// What the machine's files say; a file that can't be read names nobody.
    pub fn of_this_machine() -> Self {
        let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
        Self::parse(&read("/etc/passwd"), &read("/etc/group"))
    }

    /// What the two files say, as passwd(5) and group(5) write them. Lines of another form are passed over.
    pub fn parse(passwd: &str, group: &str) -> Self {
        Self {
            users: passwd.lines().filter_map(account).collect(),
            groups: group.lines().filter_map(named_group).collect(),
        }
    }

    /// The user with this name or number.
    pub(super) fn user(&self, text: &str) -> Option<u32> {
        let named = || self.users.get(text).map(|account| account.user);
        text.parse().ok().or_else(named)
    }

    /// The group with this name or number, and the numbers of its users.
    pub(super) fn group(&self, text: &str) -> Option<(u32, Vec<u32>)> {
        let named = || self.groups.get(text).map(|group| group.id);
        let id = text.parse().ok().or_else(named)?;
        Some((id, self.members(id)))
    }

    fn members(&self, id: u32) -> Vec<u32> {
        let primary = self.users.values().filter(|account| account.group == id);
        let listed = self.groups.values().filter(|group| group.id == id);
        let listed = listed.flat_map(|group| &group.members);
        let listed = listed.filter_map(|name| self.users.get(name));
        primary.chain(listed).map(|account| account.user).collect()
    }
}

fn account(line: &str) -> Option<(String, Account)> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let mut numbers = fields.skip(1).map(str::parse);
    let (user, group) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some((name, Account { user, group }))
}

fn named_group(line: &str) -> Option<(String, Group)> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let id = fields.nth(1)?.parse().ok()?;
    let members = fields.next().unwrap_or("").split(',');
    let members = members.filter(|member| !member.is_empty()).map(str::to_owned);
    Some((
        name,
        Group {
            id,
            members: members.collect(),
        },
    ))
}
