//! What a step sees: the base, and over it what the step itself wrote.

use std::collections::BTreeMap;
use std::ops::Deref;

use bytes::Bytes;
use moorline_shared::entry::Value;
use moorline_shared::{Digest, InstanceId, OperationId, Revision};

use super::base::{Base, Span};
use super::content::Content;
use super::journal::OperationRecord;
use super::operation::Intent;
use super::record::{Record, fence};
use crate::store::{Key, Versioned};

/// A read is not at hand. Only a [`Base`] makes this, after noting what is missing.
#[derive(Debug)]
pub struct Load(pub(super) ());

/// Which part of a collection to scan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Page {
    /// Only records whose key comes after this one.
    pub after: Option<Key>,
    /// The most records.
    pub limit: usize,
}

impl Page {
    /// The whole collection, which its quota bounds.
    pub const ALL: Self = Self {
        after: None,
        limit: usize::MAX,
    };
}

/// A record as the view has it.
#[derive(Clone, Debug)]
pub struct Kept<T> {
    record: T,
    /// When it last changed; `None` if this step wrote it.
    pub revision: Option<Revision>,
    /// How often it was put since it was created.
    pub version: u64,
}

impl<T> Kept<T> {
    /// A record as a watch tells of it.
    pub const fn new(record: T, revision: Revision, version: u64) -> Self {
        Self {
            record,
            revision: Some(revision),
            version,
        }
    }

    /// The record itself.
    pub fn into_inner(self) -> T {
        self.record
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.record
    }
}

/// What a step wrote to a key.
#[derive(Clone, Debug)]
pub struct Write {
    /// The new value; `None` if the key was deleted.
    pub value: Option<Bytes>,
    /// The fence of its collection, if it has one.
    pub fence: Option<Key>,
}

/// Everything a step read and wrote: what a transaction is made of.
#[derive(Debug, Default)]
pub struct Trace {
    /// Each key that was read, with the revision at which it last changed; `None` if there was none.
    pub reads: BTreeMap<Key, Option<u64>>,
    /// Each fence whose collection was scanned, likewise.
    pub fences: BTreeMap<Key, Option<u64>>,
    /// Each key that was written.
    pub writes: BTreeMap<Key, Write>,
    /// What is to be done later.
    pub intents: Vec<Intent>,
    /// The contents that were computed from long values, by name.
    pub derived: Vec<Content>,
    /// A record that could not be read: its key and why.
    pub broken: Option<(Key, String)>,
}

/// An overlay that reads its own writes.
pub struct View<'a> {
    base: &'a mut dyn Base,
    epoch: u64,
    operation: OperationId,
    trace: Trace,
    fresh: u64,
    /// What the record of the operation says was computed; only a replay has it.
    recalled: std::vec::IntoIter<Content>,
}

impl<'a> View<'a> {
    /// A view over `base` for a step of `operation`.
    pub fn new(base: &'a mut dyn Base, operation: OperationId) -> Self {
        let epoch = base.epoch();
        Self {
            base,
            epoch,
            operation,
            trace: Trace::default(),
            fresh: 0,
            recalled: Vec::new().into_iter(),
        }
    }

    /// The same view for a replay, in which values that the step computes from may be gone.
    #[must_use]
    pub fn recalling(self, derived: Vec<Content>) -> Self {
        Self {
            recalled: derived.into_iter(),
            ..self
        }
    }

    /// What was read and written.
    pub fn into_trace(self) -> Trace {
        self.trace
    }

    /// The record with this id, if there is one.
    pub fn get<T: Record>(&mut self, id: &T::Id) -> Result<Option<Kept<T>>, Load> {
        let key = T::key(id);
        if let Some(written) = self.trace.writes.get(&key) {
            let value = written.value.clone();
            return value.map(|value| self.decode(&key, &value, None, 1)).transpose();
        }
        let found = self.read(&key)?;
        found.map(|found| self.kept(&key, &found)).transpose()
    }

    /// Has these records at hand for reads that follow. A step that reads many one by one is begun anew for each that
    /// is missing; one that says so first is begun anew once. Nothing is traced, for nothing was read.
    pub fn foresee<T>(&mut self, ids: impl IntoIterator<Item = T::Id>) -> Result<(), Load>
    where
        T: Record<Id: Sized>,
    {
        // Every one is asked for before any ends the step, so that one more step has them all.
        let mut all = Ok(());
        for key in ids.into_iter().map(|id| T::key(&id)) {
            let written = self.trace.writes.contains_key(&key);
            if !written && let Err(load) = self.base.get(&key) {
                all = Err(load);
            }
        }
        all
    }

    /// The records of a collection in the byte order of their keys, as far as `page` says.
    ///
    /// A collection without a fence is only for operations that look: nothing guards what was scanned.
    pub fn scan<T: Record>(&mut self, of: &T::Collection, page: &Page) -> Result<Vec<Kept<T>>, Load> {
        let prefix = T::prefix(of);
        // Both are asked for before either ends the step, so that one more step has both.
        let fenced = if T::FENCED {
            self.trace_fence(fence(prefix.as_bytes()))
        } else {
            Ok(())
        };
        let span = self.span(&prefix, page);
        let found = self.base.scan(&span);
        fenced?;
        let mut records: BTreeMap<Key, Option<Kept<T>>> = BTreeMap::new();
        for (key, found) in found? {
            let kept = self.kept(&key, &found)?;
            records.insert(key, Some(kept));
        }
        self.overlay(&prefix, page, &mut records)?;
        Ok(records.into_values().flatten().take(page.limit).collect())
    }

    fn trace_fence(&mut self, fence: Key) -> Result<(), Load> {
        let found = self.base.get(&fence)?;
        self.trace.fences.insert(fence, found.map(|found| found.modified));
        Ok(())
    }

    /// What to load so that a page is full however many of its records this step deleted.
    fn span(&self, prefix: &str, page: &Page) -> Span {
        let deleted = self
            .written_below(prefix)
            .filter(|(_, write)| write.value.is_none())
            .count();
        Span {
            prefix: prefix.to_owned(),
            after: page.after.clone(),
            limit: page.limit.saturating_add(deleted),
        }
    }

    fn written_below(&self, prefix: &str) -> impl Iterator<Item = (&Key, &Write)> {
        self.trace
            .writes
            .iter()
            .filter(move |(key, _)| key.as_bytes().starts_with(prefix.as_bytes()))
    }

    fn overlay<T: Record>(
        &mut self,
        prefix: &str,
        page: &Page,
        records: &mut BTreeMap<Key, Option<Kept<T>>>,
    ) -> Result<(), Load> {
        let full = records.len() >= page.limit;
        let last = records.keys().next_back().cloned();
        let within = |key: &Key| {
            page.after.as_ref().is_none_or(|after| key > after) && (!full || Some(key) <= last.as_ref())
        };
        let written: Vec<(Key, Option<Bytes>)> = self
            .written_below(prefix)
            .filter(|(key, _)| within(key))
            .map(|(key, w)| (key.clone(), w.value.clone()))
            .collect();
        for (key, value) in written {
            let kept = value
                .map(|value| self.decode(&key, &value, None, 1))
                .transpose()?;
            records.insert(key, kept);
        }
        Ok(())
    }

    fn read(&mut self, key: &Key) -> Result<Option<Versioned>, Load> {
        let found = self.base.get(key)?;
        self.trace
            .reads
            .insert(key.clone(), found.as_ref().map(|found| found.modified));
        Ok(found)
    }

    fn kept<T: Record>(&mut self, key: &Key, found: &Versioned) -> Result<Kept<T>, Load> {
        self.decode(
            key,
            &found.value,
            Some(Revision::new(self.epoch, found.modified)),
            found.version,
        )
    }

    fn decode<T: Record>(
        &mut self,
        key: &Key,
        value: &[u8],
        revision: Option<Revision>,
        version: u64,
    ) -> Result<Kept<T>, Load> {
        match serde_json::from_slice(value) {
            Ok(record) => Ok(Kept {
                record,
                revision,
                version,
            }),
            Err(error) => Err(self.damaged(key.clone(), error.to_string())),
        }
    }

    /// Ends the step for good: the record under this key is not what it must be.
    pub fn damaged(&mut self, key: Key, reason: impl Into<String>) -> Load {
        self.trace.broken = Some((key, reason.into()));
        Load(())
    }

    /// Writes a record that this step has read, or knows to be new because its id is fresh.
    pub fn put<T: Record>(&mut self, record: &T) {
        self.write::<T>(record.own_key(), Some(encode(record)));
    }

    /// Writes a record whose key names this operation. The operation's own record is guarded, so this needs no guard.
    pub fn put_once<T: Record>(&mut self, record: &T) {
        let value = encode(record);
        let (key, fence) = (record.own_key(), T::FENCED.then(|| T::fence(&record.own_key())));
        self.trace.writes.insert(
            key,
            Write {
                value: Some(value),
                fence,
            },
        );
    }

    /// Removes a record that this step has scanned.
    pub fn delete_kept<T: Record>(&mut self, kept: &Kept<T>) {
        let (key, found) = (kept.own_key(), kept.revision.map(|revision| revision.n));
        self.trace.reads.entry(key.clone()).or_insert(found);
        self.write::<T>(key, None);
    }

    /// Removes the fence of a collection that this step has scanned to its end, and that nothing comes into any more.
    pub fn delete_fence<T: Record>(&mut self, of: &T::Collection) {
        let fence = fence(T::prefix(of).as_bytes());
        if let Some(found @ Some(_)) = self.trace.fences.get(&fence).copied() {
            self.trace.reads.insert(fence.clone(), found);
            self.trace.writes.insert(
                fence,
                Write {
                    value: None,
                    fence: None,
                },
            );
        }
    }

    /// Removes the record that this step has read.
    pub fn delete<T: Record>(&mut self, id: &T::Id) {
        self.write::<T>(T::key(id), None);
    }

    /// A key that is written without having been read must be absent: that is its guard.
    fn write<T: Record>(&mut self, key: Key, value: Option<Bytes>) {
        self.trace.reads.entry(key.clone()).or_insert(None);
        let fence = T::FENCED.then(|| T::fence(&key));
        self.trace.writes.insert(key, Write { value, fence });
    }

    /// What the step computed from long values; `None` if these are gone, which only a replay meets. It then takes what
    /// the operation's record says.
    pub fn derive(&mut self, computed: Option<Value>) -> Result<Content, Load> {
        let recalled = self.recalled.next();
        let Some(content) = computed.map(Content::Inline).or(recalled) else {
            let key = OperationRecord::key(&self.operation);
            return Err(self.damaged(key, "a value that it takes is gone"));
        };
        self.trace.derived.push(content.named());
        Ok(content)
    }

    /// Has `intent` done later, if this operation commits.
    pub fn later(&mut self, intent: Intent) {
        self.trace.intents.push(intent);
    }

    /// A new instance's id: made of the operation and a count, so that stepping again makes the same.
    pub fn fresh_instance(&mut self) -> InstanceId {
        self.fresh += 1;
        fresh_instance(&self.operation, self.fresh)
    }

    /// The bytes of a new id: made of the operation and a count, so that stepping again makes the same.
    pub fn fresh(&mut self) -> [u8; 16] {
        self.fresh += 1;
        fresh(&self.operation, self.fresh)
    }
}

fn fresh(operation: &OperationId, nth: u64) -> [u8; 16] {
    let digest = Digest::of_parts([&operation.digest().bytes()[..], &nth.to_le_bytes()]);
    let mut id = [0; 16];
    id.copy_from_slice(&digest.bytes()[..16]);
    id
}

/// The id of the `nth` new thing that `operation` makes, counted from 1, if that is an instance.
pub(super) fn fresh_instance(operation: &OperationId, nth: u64) -> InstanceId {
    let mut id = fresh(operation, nth);
    // Version 8 and the RFC 9562 variant: the id is a well-formed UUID for whoever reads it as one.
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    InstanceId::from_bytes(id)
}

fn encode<T: Record>(record: &T) -> Bytes {
    let json = serde_json::to_vec(record);
    json.expect("records are maps with text keys, which JSON can express")
        .into()
}
