//! How entries are written: under rights, guards and bounds, with their history and their long values.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use moorline_shared::access::{AccessList, Right, Rights};
use moorline_shared::api::data::EntryGuard;
use moorline_shared::entry::{ContentType, Origin, Value, Visibility};
use moorline_shared::{EntryPath, InstanceId, Principal, Ttl};
use serde::{Deserialize, Serialize};

use super::access::{self, Asker, Owner};
use super::model::{Op, Refusal, Told};
use super::records::{ChangeRecord, EntryRecord, Usage};
use crate::instances::records::InstanceRecord;
use crate::model::content::LongValue;
use crate::model::{Content, Env, Intent, Kept, Load, Page, Role, Stop, View};
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
    /// For how long it is valid from now on; absent for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
    /// Who may do what with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<AccessList>,
}

impl From<moorline_shared::api::data::PutEntry> for NewValue {
    fn from(put: moorline_shared::api::data::PutEntry) -> Self {
        Self {
            content: put.value.into(),
            content_type: put.content_type,
            visibility: put.visibility,
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

type Step<T> = Result<T, Stop<Refusal>>;

/// Whoever asks, as the decision needs it: an instance with its tags, and only through the host it is on.
pub fn asker(v: &mut View<'_>, env: &Env) -> Step<Asker> {
    let caller = &env.caller;
    let mut asker = Asker {
        principal: caller.principal.clone(),
        account: caller.account.clone(),
        role: caller.role,
        tags: Vec::new(),
    };
    if let Principal::Instance(id) = &caller.principal {
        let found = v.get::<InstanceRecord>(id)?;
        let here =
            found.filter(|instance| !instance.is_terminated() && caller.via.as_ref() == Some(&instance.host));
        let Some(instance) = here else {
            return Err(Stop::Refused(Refusal::NotOnHost(*id)));
        };
        asker.account = instance.account.clone();
        asker.tags.clone_from(&instance.tags);
    }
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
}

impl<'d, 'v> Data<'d, 'v> {
    /// The data of `instance` for the caller. An unknown instance and one the caller may not know are the same.
    pub fn open(v: &'d mut View<'v>, env: &'d Env, instance: InstanceId, api: &'static str) -> Step<Self> {
        let asker = asker(v, env)?;
        let Some(instance) = v.get::<InstanceRecord>(&instance)? else {
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
        };
        Ok(Self {
            v,
            env,
            role: asker.role,
            asker,
            instance,
            usage: None,
            api,
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
            told,
        })
    }

    /// The entry at `path` with its value, for a caller who may read it, and whether they may administer it.
    pub fn read(&mut self, path: &EntryPath) -> Step<(Kept<EntryRecord>, Value, Rights)> {
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

    /// Has what changes of these entries read at hand: the entries, and the long values that they are given.
    pub fn foresee_changes<'c>(
        &mut self,
        changes: impl IntoIterator<Item = (&'c EntryPath, Option<&'c Content>)>,
    ) -> Result<(), Load> {
        foresee_changes(self.v, self.id(), changes)
    }

    /// Has these values at hand, wherever they live.
    pub fn foresee_values<'c>(
        &mut self,
        contents: impl IntoIterator<Item = (&'c EntryPath, &'c Content)>,
    ) -> Result<(), Load> {
        foresee_values(self.v, self.id(), contents)
    }

    /// A value, wherever it lives.
    pub fn value(&mut self, path: &EntryPath, content: &Content) -> Result<Value, Load> {
        match content {
            Content::Inline(value) => Ok(value.clone()),
            Content::Named { digest, .. } => {
                let long = self.v.get::<LongValue>(&(self.id(), path.clone(), *digest))?;
                Ok(long.map(|long| long.into_inner().value).unwrap_or_default())
            }
        }
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

    /// Gives the entry at `path` another value, or makes it.
    pub fn put(&mut self, path: &EntryPath, guard: Option<EntryGuard>, new: &NewValue) -> Step<()> {
        let found = self.find(path)?;
        match found {
            Some(old) if old.is_valid(self.env.now) => self.replace(&old, guard, new),
            expired => self.create(path, guard, new, expired.as_deref()),
        }
    }

    fn replace(&mut self, old: &Kept<EntryRecord>, guard: Option<EntryGuard>, new: &NewValue) -> Step<()> {
        let rights = self.rights(old);
        if !rights.has(Right::Update) {
            return Err(self.denied(old, rights, Right::Update));
        }
        if new.access.as_ref().is_some_and(|access| *access != old.access) && !rights.has(Right::Administer) {
            return Err(self.denied(old, rights, Right::Administer));
        }
        Self::check_guard(&old.path, guard, Some(old))?;
        let mut entry = EntryRecord::clone(old);
        entry.content = self.keep(&old.path, &new.content, Some(old.content.len()))?;
        if let Some(content_type) = &new.content_type {
            entry.content_type = content_type.clone();
        }
        entry.visibility = new.visibility.unwrap_or(old.visibility);
        entry.access = new.access.clone().unwrap_or_else(|| old.access.clone());
        self.set_validity(&mut entry, new.ttl);
        self.write(entry);
        Ok(())
    }

    fn create(
        &mut self,
        path: &EntryPath,
        guard: Option<EntryGuard>,
        new: &NewValue,
        expired: Option<&EntryRecord>,
    ) -> Step<()> {
        if !access::may_create(&self.asker, self.owner(), path, self.env.settings.access) {
            return Err(self.may_not_create(path));
        }
        Self::check_guard(path, guard, None)?;
        let content = self.keep(path, &new.content, expired.map(|old| old.content.len()))?;
        let mut entry = EntryRecord {
            instance: self.id(),
            path: path.clone(),
            content_type: new.content_type.clone().unwrap_or_else(|| guess(&new.content)),
            content,
            origin: self.origin(),
            visibility: new.visibility.unwrap_or_default(),
            expires_at: None,
            access: new.access.clone().unwrap_or_default(),
            changed_by: self.env.caller.principal.clone(),
            changed_at: self.env.now,
        };
        self.check_own_access(&entry)?;
        self.set_validity(&mut entry, new.ttl);
        self.write(entry);
        Ok(())
    }

    /// An instance may not take the administration of what it makes: the access list stays with administrators.
    fn check_own_access(&self, entry: &EntryRecord) -> Step<()> {
        let members_list = self.asker.role == Role::Member && !entry.access.is_default();
        if members_list {
            Err(self.denied(entry, Rights::only(Right::Read), Right::Administer))
        } else {
            Ok(())
        }
    }

    fn may_not_create(&self, path: &EntryPath) -> Stop<Refusal> {
        let reserved = path.split('/').next() == Some(access::PROVIDER_PREFIX);
        let knows =
            self.asker.role == Role::Administrator || self.asker.principal == Principal::Instance(self.id());
        match (reserved, knows) {
            (true, true) => Stop::Refused(Refusal::Reserved(path.clone())),
            _ => self.unknown(path),
        }
    }

    fn origin(&self) -> Origin {
        match (self.asker.role, &self.asker.principal) {
            (Role::Provider, _) => Origin::Provider,
            (_, Principal::Instance(_)) => Origin::Instance,
            _ => Origin::Customer,
        }
    }

    fn check_guard(
        path: &EntryPath,
        guard: Option<EntryGuard>,
        found: Option<&Kept<EntryRecord>>,
    ) -> Step<()> {
        let revision = found.and_then(|entry| entry.revision);
        let holds = match guard {
            None => true,
            Some(EntryGuard::Absent) => found.is_none(),
            Some(EntryGuard::Revision(wanted)) => revision == Some(wanted),
        };
        if holds {
            Ok(())
        } else {
            Err(Stop::Refused(Refusal::Guard {
                path: path.clone(),
                found: revision,
            }))
        }
    }

    fn set_validity(&mut self, entry: &mut EntryRecord, ttl: Option<Ttl>) {
        entry.expires_at = ttl.map(|ttl| self.env.now.plus_seconds(ttl.seconds()));
        if let Some(due) = entry.expires_at {
            let (instance, path) = (entry.instance, entry.path.clone());
            self.v.later(Intent {
                due,
                submit: Op::ExpireEntry { instance, path }.into(),
            });
        }
    }

    /// Counts a value against the bounds and stores it where long values live.
    fn keep(&mut self, path: &EntryPath, content: &Content, replaces: Option<u64>) -> Step<Content> {
        let limits = self.env.settings.limits;
        if content.len() > limits.value_bytes {
            return Err(Stop::Refused(Refusal::ValueTooLong {
                found: content.len(),
                most: limits.value_bytes,
            }));
        }
        let mut usage = self.usage()?;
        usage.entries += u64::from(replaces.is_none());
        usage.bytes = usage.bytes + content.len() - replaces.unwrap_or(0);
        if usage.entries > limits.entries {
            return Err(Stop::Refused(Refusal::TooManyEntries { most: limits.entries }));
        }
        if usage.bytes > limits.instance_bytes {
            return Err(Stop::Refused(Refusal::TooManyBytes {
                found: usage.bytes,
                most: limits.instance_bytes,
            }));
        }
        self.set_usage(usage);
        self.store_long(path, content)?;
        Ok(content.named())
    }

    fn store_long(&mut self, path: &EntryPath, content: &Content) -> Result<(), Load> {
        let (Content::Inline(value), Content::Named { digest, .. }) = (content, content.named()) else {
            return Ok(());
        };
        let id = (self.id(), path.clone(), digest);
        if self.v.get::<LongValue>(&id)?.is_none() {
            let (instance, path, digest) = id;
            self.v.put(&LongValue {
                instance,
                path,
                digest,
                value: value.clone(),
            });
        }
        Ok(())
    }

    fn usage(&mut self) -> Result<Usage, Load> {
        if let Some(usage) = self.usage {
            return Ok(usage);
        }
        let found = self.v.get::<Usage>(&self.id())?;
        let usage = found.map_or(
            Usage {
                instance: self.id(),
                entries: 0,
                bytes: 0,
            },
            Kept::into_inner,
        );
        self.usage = Some(usage);
        Ok(usage)
    }

    /// Only a usage that changes is written, so that changes of equal length don't wait for each other.
    fn set_usage(&mut self, usage: Usage) {
        if self.usage != Some(usage) {
            self.v.put(&usage);
            self.usage = Some(usage);
        }
    }

    fn write(&mut self, mut entry: EntryRecord) {
        entry.changed_by = self.env.caller.principal.clone();
        entry.changed_at = self.env.now;
        self.remember(&entry.path, Some(entry.content.clone()));
        self.v.put(&entry);
    }

    fn remember(&mut self, path: &EntryPath, to: Option<Content>) {
        self.v.put_once(&ChangeRecord {
            instance: self.instance.id,
            path: path.clone(),
            operation: self.env.operation,
            api: self.api.to_owned(),
            principal: self.env.caller.principal.clone(),
            at: self.env.now,
            to,
        });
    }

    /// Adds to the end of the entry's value.
    pub fn append(&mut self, path: &EntryPath, guard: Option<EntryGuard>, more: &Content) -> Step<()> {
        let old = self.permitted(path, Right::Append)?;
        Self::check_guard(path, guard, Some(&old))?;
        // What was appended is a parameter of the record, so a long one is kept under its name too.
        self.store_long(path, more)?;
        let (before, more) = (self.value(path, &old.content)?, self.value(path, more)?);
        let mut bytes = BytesMut::with_capacity(before.len() + more.len());
        bytes.extend_from_slice(before.bytes());
        bytes.extend_from_slice(more.bytes());
        let content = Content::Inline(Value::from(Bytes::from(bytes)));
        let mut entry = EntryRecord::clone(&old);
        entry.content = self.keep(path, &content, Some(old.content.len()))?;
        self.write(entry);
        Ok(())
    }

    /// Removes the entry.
    pub fn delete(&mut self, path: &EntryPath, guard: Option<EntryGuard>) -> Step<()> {
        let old = self.permitted(path, Right::Delete)?;
        Self::check_guard(path, guard, Some(&old))?;
        self.remove(&old)
    }

    fn remove(&mut self, old: &EntryRecord) -> Step<()> {
        let mut usage = self.usage()?;
        usage.entries = usage.entries.saturating_sub(1);
        usage.bytes = usage.bytes.saturating_sub(old.content.len());
        self.set_usage(usage);
        self.remember(&old.path, None);
        self.v.delete::<EntryRecord>(&(old.instance, old.path.clone()));
        Ok(())
    }

    /// Says who may do what with the entry from now on.
    pub fn set_access(&mut self, path: &EntryPath, guard: Option<EntryGuard>, list: &AccessList) -> Step<()> {
        let old = self.permitted(path, Right::Administer)?;
        Self::check_guard(path, guard, Some(&old))?;
        let mut entry = EntryRecord::clone(&old);
        entry.access = list.clone();
        self.write(entry);
        Ok(())
    }

    /// Removes the entry if its time has come; an entry that was given more time stays.
    pub fn expire(&mut self, path: &EntryPath) -> Step<()> {
        match self.find(path)?.filter(|entry| !entry.is_valid(self.env.now)) {
            Some(expired) => self.remove(&expired),
            None => Ok(()),
        }
    }

    /// Removes up to `most` entries, and says whether more are left.
    pub fn purge(&mut self, most: usize) -> Step<Purged> {
        let entries = self.v.scan::<EntryRecord>(
            &self.id(),
            &Page {
                after: None,
                limit: most + 1,
            },
        )?;
        for entry in entries.iter().take(most) {
            self.remove(entry)?;
        }
        Ok(if entries.len() > most {
            Purged::Partly
        } else {
            Purged::Wholly
        })
    }
}

/// Has what changes of an instance's entries read at hand: the entries, and the long values that they are given.
pub fn foresee_changes<'c>(
    v: &mut View<'_>,
    instance: InstanceId,
    changes: impl IntoIterator<Item = (&'c EntryPath, Option<&'c Content>)>,
) -> Result<(), Load> {
    // All are asked for before any ends the step, so that one more step has all.
    let mut all = v.foresee::<Usage>([instance]);
    for (path, given) in changes {
        let entry = v.foresee::<EntryRecord>([(instance, path.clone())]);
        let value = foresee_values(v, instance, given.map(|given| (path, given)));
        all = all.and(entry).and(value);
    }
    all
}

fn foresee_values<'c>(
    v: &mut View<'_>,
    instance: InstanceId,
    contents: impl IntoIterator<Item = (&'c EntryPath, &'c Content)>,
) -> Result<(), Load> {
    let long = contents
        .into_iter()
        .filter_map(|(path, content)| match content.named() {
            Content::Named { digest, .. } => Some((instance, path.clone(), digest)),
            Content::Inline(_) => None,
        });
    v.foresee::<LongValue>(long)
}

/// How far a purge came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purged {
    /// Nothing is left.
    Wholly,
    /// More is left.
    Partly,
}

fn guess(content: &Content) -> ContentType {
    match content {
        Content::Inline(value) => ContentType::guess(value.bytes()),
        Content::Named { .. } => ContentType::default(),
    }
}

/// A path that a batch changes twice, if there is one.
pub fn repeated<'a>(paths: impl IntoIterator<Item = &'a EntryPath>) -> Option<&'a EntryPath> {
    let mut seen = BTreeSet::new();
    paths.into_iter().find(|path| !seen.insert(*path))
}
