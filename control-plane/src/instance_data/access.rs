//! Who may do what with an entry: the one function that decides, and what it knows of the asker.

use std::collections::BTreeSet;

use moorline_shared::access::{AccessList, Right, Rights, Subject, Tag};
use moorline_shared::entry::{Origin, Visibility};
use moorline_shared::id::GroupName;
use moorline_shared::{AccountId, InstanceId, Principal};

use serde::{Deserialize, Serialize};

use super::records::{EntryRecord, LastAccess};
use crate::model::Role;
use crate::settings::AccessControl;

/// The first segment of the paths that only the provider's services make.
pub const PROVIDER_PREFIX: &str = "meta";

/// Whoever asks, with what the decision depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// Who it is.
    pub principal: Principal,
    /// In which account.
    pub account: AccountId,
    /// What it is there.
    pub role: Role,
    /// Its tags, where it is an instance.
    pub tags: Vec<Tag>,
    /// The groups of its account that it is in.
    #[serde(default)]
    pub groups: BTreeSet<GroupName>,
}

/// The instance whose entry is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// Which.
    pub instance: InstanceId,
    /// Whose it is.
    pub account: &'a AccountId,
}

impl Asker {
    fn administers(&self, owner: Owner<'_>) -> bool {
        self.role == Role::Administrator && self.account == *owner.account
    }

    fn is(&self, owner: Owner<'_>) -> bool {
        self.principal == Principal::Instance(owner.instance)
    }

    /// Whether a clause speaks of the asker.
    fn is_meant(&self, subject: &Subject, owner: Owner<'_>) -> bool {
        let same_account = self.account == *owner.account;
        match (subject, &self.principal) {
            (Subject::Owner, _) => self.is(owner),
            (Subject::Account, _) => same_account,
            (Subject::User(name), Principal::User(user)) => name == user && same_account,
            (Subject::Instance(id), Principal::Instance(instance)) => id == instance,
            (Subject::Group(name), _) => same_account && self.groups.contains(name),
            (Subject::Tag(tag), Principal::Instance(_)) => same_account && self.tags.contains(tag),
            (Subject::Service(name), Principal::Service(service)) => name == service,
            _ => false,
        }
    }
}

/// What the asker may do with the entry.
///
/// The default without clauses: administrators of the account everything, the instance reads its own and changes what
/// it made itself. With clauses, what they give; administrators keep `read` and `administer`. What the provider
/// determined is never changed by anybody else.
pub fn rights(asker: &Asker, owner: Owner<'_>, entry: &EntryRecord, control: AccessControl) -> Rights {
    decide(asker, owner, (entry.origin, &entry.access), control)
}

/// What the asker could do with an entry that is gone, by what its access was at last.
pub fn last_rights(asker: &Asker, owner: Owner<'_>, last: &LastAccess, control: AccessControl) -> Rights {
    decide(asker, owner, (last.origin, &last.access), control)
}

fn decide(
    asker: &Asker,
    owner: Owner<'_>,
    (origin, list): (Origin, &AccessList),
    control: AccessControl,
) -> Rights {
    if asker.role == Role::Provider {
        return Rights::ALL;
    }
    let given = match control {
        AccessControl::Off => Rights::ALL,
        AccessControl::Enforced if list.is_default() => by_default(asker, owner, origin),
        AccessControl::Enforced => by_clauses(asker, owner, list),
    };
    if origin == Origin::Provider {
        given.and(KEEP)
    } else {
        given
    }
}

/// What administrators keep under any clauses, and all that is ever given on the provider's entries.
const KEEP: Rights = Rights::only(Right::Read).or(Rights::only(Right::Administer));

fn by_default(asker: &Asker, owner: Owner<'_>, origin: Origin) -> Rights {
    if asker.administers(owner) {
        return Rights::ALL;
    }
    match (asker.is(owner), origin) {
        (false, _) => Rights::NONE,
        (true, Origin::Instance) => Rights::ALL.without(Right::Administer),
        (true, Origin::Provider | Origin::Customer) => Rights::only(Right::Read),
    }
}

fn by_clauses(asker: &Asker, owner: Owner<'_>, list: &AccessList) -> Rights {
    let kept = if asker.administers(owner) {
        KEEP
    } else {
        Rights::NONE
    };
    let meant = list
        .clauses()
        .iter()
        .filter(|clause| asker.is_meant(&clause.subject, owner));
    meant.fold(kept, |rights, clause| rights.or(clause.rights))
}

/// Whether the asker may make an entry that isn't there: administrators, and the instance in its own data.
pub fn may_create(asker: &Asker, owner: Owner<'_>, path: &str, control: AccessControl) -> bool {
    let provider_path = path.split('/').next() == Some(PROVIDER_PREFIX);
    match asker.role {
        Role::Provider => true,
        _ if provider_path => false,
        _ => asker.administers(owner) || asker.is(owner) || control == AccessControl::Off,
    }
}

/// Whether the asker may know that the entry exists.
pub fn may_know(rights: Rights, asker: &Asker, owner: Owner<'_>, entry: &EntryRecord) -> bool {
    let published = entry.visibility == Visibility::Public && asker.account == *owner.account;
    rights.has(Right::Read) || published || asker.administers(owner)
}

#[cfg(test)]
mod tests {
    use super::{Asker, Owner, may_know, rights};
    use crate::instance_data::records::EntryRecord;
    use crate::model::Role;
    use crate::settings::AccessControl;
    use moorline_shared::access::{AccessList, Clause, Right, Rights, Subject};
    use moorline_shared::entry::{Origin, Value, Visibility};
    use moorline_shared::{InstanceId, Principal, Timestamp};
    use proptest::prelude::*;

    fn instance(n: u8) -> InstanceId {
        InstanceId::from_bytes([n; 16])
    }

    fn principals() -> impl Strategy<Value = Principal> {
        prop_oneof![
            prop::sample::select(vec!["user:ann", "user:bob", "service:volumes"])
                .prop_map(|p| p.parse().unwrap()),
            (0u8..3).prop_map(|n| Principal::Instance(instance(n))),
        ]
    }

    fn askers() -> impl Strategy<Value = Asker> {
        let accounts = prop::sample::select(vec!["a", "b"]);
        let roles = prop::sample::select(vec![Role::Administrator, Role::Member]);
        let tags = prop::collection::vec(prop::sample::select(vec!["k=1", "k=2"]), 0..2);
        let groups = prop::collection::btree_set(prop::sample::select(vec!["ops", "web"]), 0..2);
        (principals(), accounts, roles, tags, groups).prop_map(|(principal, account, role, tags, groups)| {
            Asker {
                role: if matches!(principal, Principal::Instance(_)) {
                    Role::Member
                } else {
                    role
                },
                principal,
                account: account.parse().unwrap(),
                tags: tags.into_iter().map(|tag| tag.parse().unwrap()).collect(),
                groups: groups.into_iter().map(|group| group.parse().unwrap()).collect(),
            }
        })
    }

    fn clauses() -> impl Strategy<Value = AccessList> {
        let subjects = [
            "owner",
            "account",
            "user:ann",
            "instance:",
            "group:ops",
            "tag:k=1",
            "service:volumes",
        ];
        let subject = prop::sample::select(subjects.to_vec()).prop_map(|text| match text {
            "instance:" => Subject::Instance(instance(1)),
            text => text.parse().unwrap(),
        });
        let set = prop::collection::vec(prop::sample::select(Right::ALL.to_vec()), 0..3);
        let clause = (subject, set).prop_map(|(subject, r)| Clause {
            subject,
            rights: r.into_iter().collect(),
        });
        prop::collection::vec(clause, 0..4).prop_map(|clauses| AccessList::try_from(clauses).unwrap())
    }

    fn entries() -> impl Strategy<Value = EntryRecord> {
        let origins = prop::sample::select(vec![Origin::Provider, Origin::Customer, Origin::Instance]);
        (clauses(), origins, any::<bool>()).prop_map(|(access, origin, public)| EntryRecord {
            instance: instance(0),
            path: "a/b".parse().unwrap(),
            content: Value::from("x").into(),
            content_type: Default::default(),
            origin,
            visibility: if public {
                Visibility::Public
            } else {
                Visibility::Private
            },
            expires_at: None,
            access,
            changed_by: "user:ann".parse().unwrap(),
            changed_at: Timestamp::from_millis(0).unwrap(),
        })
    }

    proptest! {
        #[test]
        fn what_the_provider_determined_is_changed_by_nobody_else(asker in askers(), entry in entries(), off: bool) {
            let account = "a".parse().unwrap();
            let owner = Owner { instance: instance(0), account: &account };
            let control = if off { AccessControl::Off } else { AccessControl::Enforced };
            let rights = rights(&asker, owner, &entry, control);
            if entry.origin == Origin::Provider {
                prop_assert!(![Right::Update, Right::Append, Right::Delete].into_iter().any(|r| rights.has(r)));
            }
        }

        #[test]
        fn strangers_get_only_what_a_clause_names_them_for(asker in askers(), entry in entries()) {
            let account = "a".parse().unwrap();
            let owner = Owner { instance: instance(0), account: &account };
            let rights = rights(&asker, owner, &entry, AccessControl::Enforced);
            let stranger = asker.account.as_str() != "a";
            let named = entry.access.clauses().iter().any(|clause| match &clause.subject {
                Subject::Owner => asker.principal == Principal::Instance(instance(0)),
                Subject::Instance(id) => asker.principal == Principal::Instance(*id),
                Subject::Service(_) => matches!(asker.principal, Principal::Service(_)),
                _ => false,
            });
            let own = asker.principal == Principal::Instance(instance(0));
            if stranger && !named && !own {
                prop_assert_eq!(rights, Rights::NONE);
                prop_assert!(!may_know(rights, &asker, owner, &entry));
            }
        }

        #[test]
        fn a_group_gives_its_rights_to_those_in_it_and_to_nobody_else(asker in askers(), entry in entries()) {
            let account = "a".parse().unwrap();
            let owner = Owner { instance: instance(0), account: &account };
            let decide = |asker: &Asker, entry: &EntryRecord| rights(asker, owner, entry, AccessControl::Enforced);
            let ops = Clause { subject: "group:ops".parse().unwrap(), rights: Rights::only(Right::Read) };
            let clauses: Vec<_> = entry.access.clauses().iter().cloned().chain([ops]).collect();
            let shared = EntryRecord { access: clauses.try_into().unwrap(), ..entry.clone() };
            prop_assume!(!entry.access.is_default());
            let (before, after) = (decide(&asker, &entry), decide(&asker, &shared));
            let in_it = asker.account == account && asker.groups.iter().any(|group| group.as_str() == "ops");
            prop_assert_eq!(after, if in_it { before.or(Rights::only(Right::Read)) } else { before });
        }

        #[test]
        fn administrators_never_lose_sight(asker in askers(), entry in entries()) {
            let account = "a".parse().unwrap();
            let owner = Owner { instance: instance(0), account: &account };
            if asker.role == Role::Administrator && asker.account.as_str() == "a" {
                let rights = rights(&asker, owner, &entry, AccessControl::Enforced);
                prop_assert!(rights.has(Right::Read) && rights.has(Right::Administer));
            }
        }
    }
}
