//! Entries written, removed, and given to others.

use bytes::{Bytes, BytesMut};
use moorline_shared::access::{AccessList, Right, Rights};
use moorline_shared::api::data::EntryGuard;
use moorline_shared::entry::{ContentType, Origin, Value};
use moorline_shared::{EntryPath, Principal, Ttl};

use super::{Data, NewValue, Step};
use crate::instance_data::access;
use crate::instance_data::operations::Op;
use crate::instance_data::records::{ChangeRecord, EntryRecord, LastAccess};
use crate::instance_data::refusal::Refusal;
use crate::model::content::{Looks, Secrecy};
use crate::model::{Content, Intent, Kept, Load, Role, Stop};

/// How often an entry is written until its history is looked after.
const TRIM_EVERY: u64 = 16;

impl Data<'_, '_> {
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
        self.check_secrecy(old, rights, new)?;
        self.check_lives()?;
        Self::check_guard(&old.path, guard, Some(old))?;
        let mut entry = EntryRecord::clone(old);
        entry.content = self.keep(&old.path, &new.content, Some(old.content.len()))?;
        if let Some(content_type) = &new.content_type {
            entry.content_type = content_type.clone();
        }
        entry.visibility = new.visibility.unwrap_or(old.visibility);
        entry.access = new.access.clone().unwrap_or_else(|| old.access.clone());
        self.set_validity(&mut entry, new.ttl);
        self.write(entry, old.version + 1, None);
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
        self.check_lives()?;
        Self::check_guard(path, guard, None)?;
        check_sealed(path, new.secret.unwrap_or(Secrecy::Open), &new.content)?;
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
        self.write(entry, 1, None);
        Ok(())
    }

    /// A secret stays one unless it is said that it is none, by somebody who administers it.
    fn check_secrecy(&self, old: &Kept<EntryRecord>, rights: Rights, new: &NewValue) -> Step<()> {
        if old.is_secret() && new.secret == Some(Secrecy::Open) && !rights.has(Right::Administer) {
            return Err(self.denied(old, rights, Right::Administer));
        }
        let wanted = new.secret.unwrap_or_else(|| old.content.secrecy());
        check_sealed(&old.path, wanted, &new.content)
    }

    /// What is written after the end would be read by nobody and kept beyond the purge.
    fn check_lives(&self) -> Step<()> {
        if self.instance.is_terminated() {
            Err(Stop::Refused(Refusal::Terminated(self.id())))
        } else {
            Ok(())
        }
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
        let Some(wanted) = guard else { return Ok(()) };
        let revision = found.and_then(|entry| entry.revision);
        let holds = match wanted {
            EntryGuard::Absent => found.is_none(),
            EntryGuard::Revision(wanted) => revision == Some(wanted),
        };
        if holds {
            Ok(())
        } else {
            Err(Stop::Refused(Refusal::Guard {
                path: path.clone(),
                found: revision,
                wanted,
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

    /// Writes what is now the entry's `version`-th value, to which long bytes were `given` for its end.
    fn write(&mut self, mut entry: EntryRecord, version: u64, given: Option<Content>) {
        entry.changed_by = self.env.caller.principal.clone();
        entry.changed_at = self.env.now;
        self.remember(&entry.path, Some(entry.content.clone()), given, None);
        self.v.put(&entry);
        if version.is_multiple_of(TRIM_EVERY) {
            self.trim_later(&entry.path);
        }
    }

    fn remember(
        &mut self,
        path: &EntryPath,
        to: Option<Content>,
        given: Option<Content>,
        last: Option<LastAccess>,
    ) {
        self.v.put_once(&ChangeRecord {
            instance: self.instance.id,
            path: path.clone(),
            operation: self.env.operation,
            api: self.api.to_owned(),
            principal: self.env.caller.principal.clone(),
            at: self.env.now,
            to,
            given,
            last,
        });
    }

    /// Adds to the end of the entry's value.
    pub fn append(&mut self, path: &EntryPath, guard: Option<EntryGuard>, more: &Content) -> Step<()> {
        let old = self.permitted(path, Right::Append)?;
        self.check_lives()?;
        Self::check_guard(path, guard, Some(&old))?;
        if old.is_secret() {
            return Err(Stop::Refused(Refusal::AppendToSecret(path.clone())));
        }
        // What was appended is a parameter of the record, so a long one is kept under its name too.
        self.store_long(path, more)?;
        let content = self.joined(path, &old.content, more)?;
        let mut entry = EntryRecord::clone(&old);
        entry.content = self.keep(path, &content, Some(old.content.len()))?;
        let given = matches!(more.named(), Content::Named { .. }).then(|| more.named());
        self.write(entry, old.version + 1, given);
        Ok(())
    }

    fn joined(&mut self, path: &EntryPath, before: &Content, more: &Content) -> Result<Content, Load> {
        let (before, more) = (self.bytes(path, before)?, self.bytes(path, more)?);
        let both = before.zip(more).map(|(before, more)| {
            let mut bytes = BytesMut::with_capacity(before.len() + more.len());
            bytes.extend_from_slice(before.bytes());
            bytes.extend_from_slice(more.bytes());
            Value::from(Bytes::from(bytes))
        });
        match both {
            // It was made of short ones, which records hold themselves.
            Some(short) if short.len() <= Content::INLINE_BYTES => Ok(Content::Inline(short)),
            both => self.v.derive(both),
        }
    }

    /// Removes the entry.
    pub fn delete(&mut self, path: &EntryPath, guard: Option<EntryGuard>) -> Step<()> {
        let old = self.permitted(path, Right::Delete)?;
        Self::check_guard(path, guard, Some(&old))?;
        self.remove_and_trim(&old)
    }

    /// An entry that is made anew counts its versions anew, so its removal has its history looked after.
    fn remove_and_trim(&mut self, old: &Kept<EntryRecord>) -> Step<()> {
        self.remove(old)?;
        self.trim_later(&old.path);
        Ok(())
    }

    /// Removes the entry; its history stays, and says so.
    pub(super) fn remove(&mut self, old: &Kept<EntryRecord>) -> Step<()> {
        let mut usage = self.usage()?;
        usage.entries = usage.entries.saturating_sub(1);
        usage.bytes = usage.bytes.saturating_sub(old.content.len());
        self.set_usage(usage);
        self.remember(&old.path, None, None, Some(LastAccess::from(&**old)));
        self.v.delete_kept(old);
        Ok(())
    }

    /// Says who may do what with the entry from now on.
    pub fn set_access(&mut self, path: &EntryPath, guard: Option<EntryGuard>, list: &AccessList) -> Step<()> {
        let old = self.permitted(path, Right::Administer)?;
        Self::check_guard(path, guard, Some(&old))?;
        let mut entry = EntryRecord::clone(&old);
        entry.access = list.clone();
        self.write(entry, old.version + 1, None);
        Ok(())
    }

    /// Removes the entry if its time has come; an entry that was given more time stays.
    pub fn expire(&mut self, path: &EntryPath) -> Step<()> {
        match self.find(path)?.filter(|entry| !entry.is_valid(self.env.now)) {
            Some(expired) => self.remove_and_trim(&expired),
            None => Ok(()),
        }
    }
}

/// Nothing is kept in the clear that is to be secret, and nothing sealed that isn't, whoever stepped this.
fn check_sealed(path: &EntryPath, wanted: Secrecy, content: &Content) -> Step<()> {
    if content.secrecy() == wanted {
        Ok(())
    } else {
        Err(Stop::Refused(Refusal::NotSealed(path.clone())))
    }
}

fn guess(content: &Content) -> ContentType {
    match content.looks() {
        Looks::Text => ContentType::guess(b""),
        Looks::Bytes => ContentType::guess(&[0xff]),
    }
}
