//! How entries are read and written: under rights, guards and bounds, with their history and their long values.
//!
//! [`Data`] is one instance's data as one operation sees them. Here is how it is opened and read; [`change`] writes,
//! [`usage`] keeps to the bounds, [`retention`] removes what is no longer kept, [`foresight`] has records loaded
//! together that are read one by one.

mod change;
mod foresight;
mod retention;
mod usage;

use std::collections::BTreeSet;

use moorline_shared::access::{AccessList, Right, Rights};
use moorline_shared::entry::{ContentType, Value, Visibility};
use moorline_shared::{EntryPath, InstanceId, Principal, Ttl};
use serde::{Deserialize, Serialize};

pub use self::foresight::foresee_changes;
pub use self::retention::Progress;
use super::access::{self, Asker, Owner};
use super::records::{EntryRecord, Usage};
use super::refusal::{Giver, Refusal, Told};
use crate::identity::directory::{MembershipRecord, groups_in};
use crate::instances::hearing::heard;
use crate::instances::records::InstanceRecord;
use crate::model::content::{LongValue, Secrecy};
use crate::model::{Content, Env, Kept, Load, Page, Record as _, Role, Stop, View};
use crate::settings::Refusals;

/// An entry's new value. What is absent stays as it is, or takes its default in a new entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewValue {
    /// The bytes.
    pub content: Content,
    /// What they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<ContentType>,
    /// Whether `describe` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visibility: Option<Visibility>,
    /// Whether the entry is secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secrecy>,
    /// For how long it is valid from now on; absent for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
    /// Who may do what with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<AccessList>,
}

impl From<moorline_shared::api::data::PutEntry> for NewValue {
    fn from(put: moorline_shared::api::data::PutEntry) -> Self {
        let secret = put.secret.map(Secrecy::from);
        let value = match secret {
            Some(Secrecy::Secret) => put.value.wiped(),
            Some(Secrecy::Open) | None => put.value,
        };
        Self {
            content: value.into(),
            content_type: put.content_type,
            visibility: put.visibility,
            secret,
            ttl: put.ttl,
            access: put.access,
        }
    }
}

impl NewValue {
    /// Text and nothing else.
    pub fn text(text: &str) -> Self {
        moorline_shared::api::data::PutEntry::value(Value::from(text)).into()
    }
}

/// What an operation on instances' data comes to.
pub(super) type Step<T> = Result<T, Stop<Refusal>>;

/// Whoever asks, as the decision needs it: with their groups, and an instance with its tags and only if it is [`heard`].
pub fn asker(v: &mut View<'_>, env: &Env) -> Step<Asker> {
    let caller = &env.caller;
    let mut asker = Asker {
        principal: caller.principal.clone(),
        account: caller.account.clone(),
        role: caller.role,
        tags: Vec::new(),
        groups: BTreeSet::new(),
    };
    // Both are asked for before either ends the step, so that one more step has both.
    let memberships = v.scan::<MembershipRecord>(&caller.principal, &Page::ALL);
    if let Principal::Instance(id) = &caller.principal {
        let heard = heard(v.get(id)?, *id, caller);
        let instance = heard.map_err(|unheard| Stop::Refused(unheard.into()))?;
        asker.account = instance.account.clone();
        asker.tags.clone_from(&instance.tags);
    }
    asker.groups = groups_in(&asker.account, memberships?.into_iter().map(Kept::into_inner));
    Ok(asker)
}

/// An instance's data as one operation sees and changes them.
pub struct Data<'d, 'v> {
    v: &'d mut View<'v>,
    env: &'d Env,
    asker: Asker,
    /// What the caller is, while the asker may be the provider for a moment.
    role: Role,
    instance: Kept<InstanceRecord>,
    usage: Option<Usage>,
    api: &'static str,
    /// The entries whose histories are to be looked after.
    untrimmed: Vec<EntryPath>,
}

impl<'d, 'v> Data<'d, 'v> {
    /// The data of `instance` for the caller. An unknown instance and one the caller may not know are the same.
    pub fn open(v: &'d mut View<'v>, env: &'d Env, instance: InstanceId, api: &'static str) -> Step<Self> {
        // All is asked for before any of it ends the step, so that one more step has all.
        let found = v.get::<InstanceRecord>(&instance);
        let asker = asker(v, env)?;
        let Some(instance) = found? else {
            return Err(Stop::Refused(Refusal::UnknownInstance(instance)));
        };
        let foreign = asker.account != instance.account && matches!(asker.principal, Principal::User(_));
        if foreign && asker.role != Role::Provider {
            return Err(Stop::Refused(Refusal::UnknownInstance(instance.id)));
        }
        Ok(Self {
            v,
            env,
            role: asker.role,
            asker,
            instance,
            usage: None,
            api,
            untrimmed: Vec::new(),
        })
    }

    /// The data of an instance that this very operation makes: who makes it fills it as administrators do.
    pub fn of_new(v: &'d mut View<'v>, env: &'d Env, id: InstanceId, api: &'static str) -> Step<Self> {
        let Some(instance) = v.get::<InstanceRecord>(&id)? else {
            return Err(Stop::Refused(Refusal::UnknownInstance(id)));
        };
        let (principal, account) = (env.caller.principal.clone(), instance.account.clone());
        let asker = Asker {
            principal,
            account,
            role: Role::Administrator,
            tags: Vec::new(),
            groups: BTreeSet::new(),
        };
        Ok(Self {
            v,
            env,
            role: asker.role,
            asker,
            instance,
            usage: None,
            api,
            untrimmed: Vec::new(),
        })
    }

    /// The same data, changed in the provider's name.
    pub fn as_provider(&mut self) -> &mut Self {
        self.asker.role = Role::Provider;
        self
    }

    /// The same data, changed in the caller's name.
    pub fn as_caller(&mut self) -> &mut Self {
        self.asker.role = self.role;
        self
    }

    fn id(&self) -> InstanceId {
        self.instance.id
    }

    /// Who asks, as decisions on these data take it.
    pub const fn asker(&self) -> &Asker {
        &self.asker
    }

    /// Whose data they are.
    pub fn account(&self) -> &moorline_shared::AccountId {
        &self.instance.account
    }

    fn owner(&self) -> Owner<'_> {
        Owner {
            instance: self.instance.id,
            account: &self.instance.account,
        }
    }

    fn find(&mut self, path: &EntryPath) -> Step<Option<Kept<EntryRecord>>> {
        Ok(self.v.get::<EntryRecord>(&(self.id(), path.clone()))?)
    }

    fn rights(&self, entry: &EntryRecord) -> Rights {
        access::rights(&self.asker, self.owner(), entry, self.env.settings.access)
    }

    /// The valid entry at `path`, if the caller has `right` on it.
    fn permitted(&mut self, path: &EntryPath, right: Right) -> Step<Kept<EntryRecord>> {
        let found = self.find(path)?.filter(|entry| entry.is_valid(self.env.now));
        let Some(entry) = found else {
            return Err(self.unknown(path));
        };
        let rights = self.rights(&entry);
        if rights.has(right) {
            Ok(entry)
        } else {
            Err(self.denied(&entry, rights, right))
        }
    }

    fn unknown(&self, path: &EntryPath) -> Stop<Refusal> {
        Stop::Refused(Refusal::UnknownEntry {
            instance: self.id(),
            path: path.clone(),
        })
    }

    fn denied(&self, entry: &EntryRecord, rights: Rights, right: Right) -> Stop<Refusal> {
        let knows = access::may_know(rights, &self.asker, self.owner(), entry);
        let told = match self.env.settings.refusals {
            Refusals::Full if knows => Told::Everything,
            Refusals::Generic if knows => Told::ThatItIsDenied,
            _ => Told::Nothing,
        };
        Stop::Refused(Refusal::Denied {
            instance: self.id(),
            path: entry.path.clone(),
            right,
            giver: Giver::of(entry.origin, right),
            told,
        })
    }

    /// The entry at `path` with its value, for a caller who may read it, and what they may do with it.
    pub fn read(&mut self, path: &EntryPath) -> Step<(Kept<EntryRecord>, Content, Rights)> {
        let entry = self.permitted(path, Right::Read)?;
        let rights = self.rights(&entry);
        let value = self.value(path, &entry.content)?;
        Ok((entry, value, rights))
    }

    /// Whether the entry at `path` has just this text.
    pub fn holds(&mut self, path: &EntryPath, text: &str) -> Step<bool> {
        let found = self.find(path)?;
        Ok(found.is_some_and(|entry| entry.content == Content::Inline(Value::from(text))))
    }

    /// A value with its bytes at hand, wherever they live; those of a secret stay sealed. A value that is gone is damage,
    /// and never shown as an empty one.
    pub fn value(&mut self, path: &EntryPath, content: &Content) -> Result<Content, Load> {
        if let Some(bytes) = self.bytes(path, content)? {
            return Ok(content.clone().with(bytes));
        }
        let name = content.digest().map(|digest| (self.id(), path.clone(), digest));
        let key = name.map_or_else(
            || EntryRecord::key(&(self.id(), path.clone())),
            |name| LongValue::key(&name),
        );
        Err(self.v.damaged(key, "the value is gone or has another length"))
    }

    /// What is kept of a value, wherever it lives, unless it is gone, as when an operation of long ago is replayed.
    fn bytes(&mut self, path: &EntryPath, content: &Content) -> Result<Option<Value>, Load> {
        let Some(digest) = content.digest() else {
            return Ok(content.at_hand().cloned());
        };
        let long = self.v.get::<LongValue>(&(self.id(), path.clone(), digest))?;
        let value = long.map(|long| long.into_inner().value);
        Ok(value.filter(|value| value.len() as u64 == content.kept_len()))
    }

    /// Every valid entry with what the caller may do with it, in byte order of the paths. One pass.
    pub fn all(&mut self) -> Step<Vec<(Kept<EntryRecord>, Rights)>> {
        let entries = self.v.scan::<EntryRecord>(&self.id(), &Page::ALL)?;
        let valid = entries.into_iter().filter(|entry| entry.is_valid(self.env.now));
        Ok(valid
            .map(|entry| (self.rights(&entry), entry))
            .map(|(rights, entry)| (entry, rights))
            .collect())
    }

    /// Whether the caller may know of the entry, given what it may do with it.
    pub fn may_know(&self, entry: &EntryRecord, rights: Rights) -> bool {
        access::may_know(rights, &self.asker, self.owner(), entry)
    }
}

/// A path that a batch changes twice, if there is one.
pub fn repeated<'a>(paths: impl IntoIterator<Item = &'a EntryPath>) -> Option<&'a EntryPath> {
    let mut seen = BTreeSet::new();
    paths.into_iter().find(|path| !seen.insert(*path))
}
