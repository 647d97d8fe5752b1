//! The rules for groups.

use moorline_shared::api::identity::Group;
use moorline_shared::id::GroupName;
use moorline_shared::{AccountId, Principal};

use super::{Step, by_administrator};
use crate::identity::directory::{
    Former, FormerRecord, GroupRecord, MemberRecord, MembershipRecord, UserRecord,
};
use crate::identity::operations::Reply;
use crate::identity::refusal::{Refusal, refuse};
use crate::instances::records::InstanceRecord;
use crate::model::{Env, Kept, Load, Page, View};

/// The most groups of an account.
pub const MAX_GROUPS: usize = 1_000;
/// The most members of a group: as many as one transaction can take out, which takes five operations and guards for each.
pub const MAX_MEMBERS: usize = 500;
/// The most groups that somebody is in. One transaction takes them out of all, and every decision about them reads these.
pub const MAX_MEMBERSHIPS: usize = 100;

/// Makes a group in the caller's account.
pub fn create(v: &mut View<'_>, env: &Env, name: &GroupName) -> Step<Reply> {
    by_administrator(env)?;
    let account = &env.caller.account;
    if v.get::<GroupRecord>(&(account.clone(), name.clone()))?.is_some() {
        return refuse(Refusal::GroupTwice(name.clone()));
    }
    never_before(v, Former::Group(account.clone(), name.clone()))?;
    if v.scan::<GroupRecord>(account, &Page::ALL)?.len() >= MAX_GROUPS {
        return refuse(Refusal::TooManyGroups);
    }
    v.put(&GroupRecord {
        account: account.clone(),
        name: name.clone(),
        created_at: env.now,
    });
    Ok(Reply::Done)
}

/// Removes a group, and everybody from it.
pub fn delete(v: &mut View<'_>, env: &Env, name: &GroupName) -> Step<Reply> {
    by_administrator(env)?;
    let id = of_account(v, env, name)?;
    for member in v.scan::<MemberRecord>(&id, &Page::ALL)? {
        remove_both(v, &member)?;
    }
    v.delete::<GroupRecord>(&id);
    let (account, group) = id;
    v.put(&FormerRecord {
        name: Former::Group(account, group),
        removed_at: env.now,
    });
    Ok(Reply::Done)
}

/// Refuses a name that somebody had: clauses that name them would come to mean whoever has it next.
pub fn never_before(v: &mut View<'_>, name: Former) -> Step<()> {
    match v.get::<FormerRecord>(&name)? {
        Some(_) => refuse(Refusal::NameOfFormer(name)),
        None => Ok(()),
    }
}

/// Takes a user or an instance of the account into a group. One that is in it already stays in it.
pub fn add(v: &mut View<'_>, env: &Env, name: &GroupName, member: &Principal) -> Step<Reply> {
    by_administrator(env)?;
    let (account, group) = of_account(v, env, name)?;
    is_of_account(v, &account, member)?;
    let id = (account.clone(), group.clone());
    if v.scan::<MemberRecord>(&id, &Page::ALL)?.len() >= MAX_MEMBERS {
        return refuse(Refusal::TooManyMembers(name.clone()));
    }
    let record = MemberRecord {
        account,
        group,
        member: member.clone(),
    };
    let (own, other) = ids(&record);
    if v.get::<MemberRecord>(&own)?.is_none() {
        if v.scan::<MembershipRecord>(member, &Page::ALL)?.len() >= MAX_MEMBERSHIPS {
            return refuse(Refusal::TooManyMemberships(member.clone()));
        }
        v.get::<MembershipRecord>(&other)?;
        v.put(&record);
        v.put(&MembershipRecord::from(&record));
    }
    Ok(Reply::Done)
}

/// Takes somebody out of a group.
pub fn remove(v: &mut View<'_>, env: &Env, name: &GroupName, member: &Principal) -> Step<Reply> {
    by_administrator(env)?;
    let (account, group) = of_account(v, env, name)?;
    let record = MemberRecord {
        account,
        group,
        member: member.clone(),
    };
    if v.get::<MemberRecord>(&ids(&record).0)?.is_none() {
        return refuse(Refusal::NotAMember {
            group: name.clone(),
            member: member.clone(),
        });
    }
    remove_both(v, &record)?;
    Ok(Reply::Done)
}

/// The groups of the caller's account, with their members.
pub fn describe(v: &mut View<'_>, env: &Env) -> Step<Reply> {
    by_administrator(env)?;
    let groups = v.scan::<GroupRecord>(&env.caller.account, &Page::ALL)?;
    let mut shown = Vec::new();
    for group in groups.into_iter().map(Kept::into_inner) {
        let id = (group.account.clone(), group.name.clone());
        let members = v.scan::<MemberRecord>(&id, &Page::ALL)?;
        shown.push(Group {
            group: group.name,
            account: group.account,
            members: members
                .into_iter()
                .map(|member| member.into_inner().member)
                .collect(),
            created_at: group.created_at,
        });
    }
    Ok(Reply::Groups(shown))
}

/// Takes somebody out of every group, as when they are no more.
pub fn leave_all(v: &mut View<'_>, member: &Principal) -> Result<(), Load> {
    for place in v.scan::<MembershipRecord>(member, &Page::ALL)? {
        let place = place.into_inner();
        let record = MemberRecord {
            account: place.account,
            group: place.group,
            member: place.member,
        };
        remove_both(v, &record)?;
    }
    Ok(())
}

fn remove_both(v: &mut View<'_>, record: &MemberRecord) -> Result<(), Load> {
    let (own, other) = ids(record);
    v.get::<MemberRecord>(&own)?;
    v.get::<MembershipRecord>(&other)?;
    v.delete::<MemberRecord>(&own);
    v.delete::<MembershipRecord>(&other);
    Ok(())
}

fn ids(
    of: &MemberRecord,
) -> (
    (AccountId, GroupName, Principal),
    (Principal, AccountId, GroupName),
) {
    let (account, group, member) = (&of.account, &of.group, &of.member);
    (
        (account.clone(), group.clone(), member.clone()),
        (member.clone(), account.clone(), group.clone()),
    )
}

fn of_account(v: &mut View<'_>, env: &Env, name: &GroupName) -> Step<(AccountId, GroupName)> {
    let id = (env.caller.account.clone(), name.clone());
    if v.get::<GroupRecord>(&id)?.is_none() {
        return refuse(Refusal::UnknownGroup(name.clone()));
    }
    Ok(id)
}

fn is_of_account(v: &mut View<'_>, account: &AccountId, member: &Principal) -> Step<()> {
    let is = match member {
        Principal::User(name) => v
            .get::<UserRecord>(name)?
            .is_some_and(|user| user.account == *account),
        Principal::Instance(id) => {
            let instance = v.get::<InstanceRecord>(id)?;
            instance.is_some_and(|instance| instance.account == *account && !instance.has_ended())
        }
        Principal::Host(_) | Principal::Service(_) => false,
    };
    if is {
        Ok(())
    } else {
        refuse(Refusal::NoSuchMember(member.clone()))
    }
}
