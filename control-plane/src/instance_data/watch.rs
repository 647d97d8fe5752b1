//! Watches of users: the store's transactions, cut to what is watched and may be read.

use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use moorline_shared::access::{Right, Rights, Tag};
use moorline_shared::api::data::{Entry, EntryChange, WatchEvent};
use moorline_shared::entry::Value;
use moorline_shared::{AccountId, EntryPath, InstanceId, PathPrefix, Principal, Revision};
use tokio::time::Instant;

use super::access::{Asker, Owner, rights};
use super::model::Model;
use super::operations::{Op, Reply};
use super::records::EntryRecord;
use super::show::shown;
use crate::http::Control;
use crate::http::problem::Failure;
use crate::identity::directory::MembershipRecord;
use crate::instances::records::InstanceRecord;
use crate::model::content::LongValue;
use crate::model::sealing::open;
use crate::model::{Caller, Kept, Record};
use crate::store::{Batch, Event, Key, ReadError, Versioned, Watch, WatchError};

/// How often a watch that nothing happens on says where it stands.
const BOOKMARK_EVERY: Duration = Duration::from_secs(15);

/// A watch that was allowed.
pub struct Watching {
    control: Control,
    caller: Caller,
    instance: InstanceId,
    prefix: PathPrefix,
    asker: Asker,
    account: AccountId,
    source: Source,
    /// Up to where everything was shown.
    at: u64,
}

enum Source {
    Watch(Watch),
    /// Something is not told any more: the watcher is to read everything, no older than this, and begin again.
    Lost(u64),
}

impl Watching {
    /// Begins a watch after revision `after`, or from now on. Fails if the caller may not know the instance.
    pub async fn begin(
        control: Control,
        caller: Caller,
        instance: InstanceId,
        prefix: PathPrefix,
        after: Option<Revision>,
    ) -> Result<Self, Failure> {
        let store = control.executor.store();
        let (asker, account, head) = admit(&control, &caller, instance, &prefix).await?;
        let epoch = store.epoch();
        let at = match after {
            Some(after) if after.epoch != epoch => None,
            Some(after) => Some(after.n),
            None => Some(head),
        };
        let (source, at) = match at {
            None => (Source::Lost(head), head),
            Some(at) => match store.watch(at).await {
                Ok(watch) => (Source::Watch(watch), at),
                Err(ReadError::Compacted { oldest, .. }) => (Source::Lost(oldest), oldest),
                Err(error) => return Err(Failure::revision(error, epoch, "after")),
            },
        };
        Ok(Self {
            control,
            caller,
            instance,
            prefix,
            asker,
            account,
            source,
            at,
        })
    }

    /// The first event, or a bookmark after `seconds`.
    pub async fn first(mut self, seconds: u32) -> Result<WatchEvent, Failure> {
        let deadline = Instant::now() + Duration::from_secs(u64::from(seconds));
        Ok(self.next(deadline).await.unwrap_or_else(|End| self.bookmark()))
    }

    /// The events as lines of JSON until the client goes or the control plane ends.
    pub fn stream(self) -> Response {
        let lines = futures_util::stream::unfold(Some(self), |watching| async move {
            let mut watching = watching?;
            let event = watching.next(Instant::now() + BOOKMARK_EVERY).await.ok()?;
            let last = matches!(event, WatchEvent::Resync { .. });
            let mut line = serde_json::to_vec(&event).ok()?;
            line.push(b'\n');
            Some((
                Ok::<_, std::convert::Infallible>(Bytes::from(line)),
                (!last).then_some(watching),
            ))
        });
        (
            [(header::CONTENT_TYPE, "application/x-ndjson")],
            Body::from_stream(lines),
        )
            .into_response()
    }

    fn bookmark(&self) -> WatchEvent {
        WatchEvent::Bookmark {
            revision: self.revision(self.at),
        }
    }

    fn revision(&self, n: u64) -> Revision {
        Revision::new(self.control.executor.store().epoch(), n)
    }

    /// The next event, or a bookmark at the deadline.
    async fn next(&mut self, deadline: Instant) -> Result<WatchEvent, End> {
        loop {
            let cancel = self.control.cancel.clone();
            let watch = match &mut self.source {
                Source::Lost(n) => {
                    let revision = Revision::new(self.control.executor.store().epoch(), *n);
                    return Ok(WatchEvent::Resync { revision });
                }
                Source::Watch(watch) => watch,
            };
            let batch = tokio::select! {
                // Cancel-safe: the watch keeps what was not taken.
                () = cancel.cancelled() => return Err(End),
                () = tokio::time::sleep_until(deadline) => return Ok(self.bookmark()),
                batch = watch.next() => batch,
            };
            match batch {
                Ok(batch) => {
                    if let Some(event) = self.told(&batch).await? {
                        return Ok(event);
                    }
                }
                Err(WatchError::Compacted { oldest, .. }) => self.source = Source::Lost(oldest),
                Err(_) => return Err(End),
            }
        }
    }

    /// What the watcher is told of a transaction, if anything.
    async fn told(&mut self, batch: &Batch) -> Result<Option<WatchEvent>, End> {
        let changes = match self.changes(batch).await {
            Ok(changes) => changes,
            Err(Untold::Denied) => return Err(End),
            Err(Untold::Anew) => {
                self.source = Source::Lost(batch.n);
                return Ok(None);
            }
        };
        self.at = batch.n;
        let revision = self.revision(batch.n);
        Ok((!changes.is_empty()).then_some(WatchEvent::Changes { revision, changes }))
    }

    async fn changes(&mut self, batch: &Batch) -> Result<Vec<EntryChange>, Untold> {
        self.follow_asker(batch).await?;
        let prefix = EntryRecord::prefix(&self.instance);
        let mut changes = Vec::new();
        for event in batch.events.iter() {
            let path = event
                .key
                .as_bytes()
                .strip_prefix(prefix.as_bytes())
                .and_then(|path| std::str::from_utf8(path).ok());
            let Some(path) = path.filter(|path| self.prefix.covers(path)) else {
                continue;
            };
            if let Ok(path) = path.parse() {
                changes.extend(self.change(path, event, batch.n).await?);
            }
        }
        Ok(changes)
    }

    /// The entry as it is now, if the watcher may read it. Of one that it could read before, it hears that it is gone;
    /// of others, nothing at all.
    async fn change(&self, path: EntryPath, event: &Event, n: u64) -> Result<Option<EntryChange>, Untold> {
        let now = event.value.as_ref();
        let readable = now.map(|kept| self.readable(&event.key, kept)).transpose()?;
        let entry = if let (Some((record, rights)), Some(kept)) = (readable.flatten(), now) {
            let value = Some(self.value(&record, n).await?);
            let entry = Kept::new(record, self.revision(kept.modified), kept.version);
            let entry = shown(&entry, rights);
            Some(Entry { value, ..entry })
        } else if self.was_readable(&event.key, n - 1).await? {
            None
        } else {
            return Ok(None);
        };
        Ok(Some(EntryChange { path, entry }))
    }

    async fn was_readable(&self, key: &Key, n: u64) -> Result<bool, Untold> {
        match self.read(n, key).await? {
            Some(kept) => Ok(self.readable(key, &kept)?.is_some()),
            None => Ok(false),
        }
    }

    /// The record, and what the watcher may do with the entry, if it may read it.
    fn readable(&self, key: &Key, kept: &Versioned) -> Result<Option<(EntryRecord, Rights)>, Untold> {
        let record: EntryRecord = decode(key, kept)?;
        let owner = Owner {
            instance: self.instance,
            account: &self.account,
        };
        let control = self.control.executor.settings().access;
        let rights = rights(&self.asker, owner, &record, control);
        Ok(rights.has(Right::Read).then_some((record, rights)))
    }

    async fn value(&self, record: &EntryRecord, n: u64) -> Result<Value, Untold> {
        let content = match record.content.digest() {
            None => record.content.clone(),
            Some(digest) => {
                let key = LongValue::key(&(record.instance, record.path.clone(), digest));
                let found = self.read(n, &key).await?;
                let found = found.ok_or_else(|| damaged(&key, "it is gone"))?;
                let long = decode::<LongValue>(&key, &found)?;
                record.content.clone().with(long.value)
            }
        };
        let opened = open(&self.control.master, record.instance, &record.path, &content);
        opened.map_err(|error| {
            tracing::error!(%error, "a value can't be shown, and its watcher is to read anew");
            Untold::Anew
        })
    }

    async fn read(&self, n: u64, key: &Key) -> Result<Option<Versioned>, Untold> {
        let store = self.control.executor.store();
        store.get(n, key).await.map_err(|error| {
            tracing::warn!(%error, "a change can't be told, and its watcher is to read anew");
            Untold::Anew
        })
    }

    /// A watcher whose own record changed is judged anew. If its tags or its groups are others after it, so are the
    /// entries that it may read, of which no event tells.
    async fn follow_asker(&mut self, batch: &Batch) -> Result<(), Untold> {
        let places = MembershipRecord::prefix(&self.caller.principal);
        let of_groups = |event: &Event| event.key.as_bytes().starts_with(places.as_bytes());
        if batch.events.iter().any(of_groups) {
            return Err(Untold::Anew);
        }
        let Principal::Instance(id) = &self.caller.principal else {
            return Ok(());
        };
        let own = InstanceRecord::key(id);
        let Some(event) = batch.events.iter().find(|event| event.key == own) else {
            return Ok(());
        };
        let before = self.read(batch.n - 1, &own).await?;
        if tags(&own, before.as_ref())? != tags(&own, event.value.as_ref())? {
            return Err(Untold::Anew);
        }
        let admitted = admit(&self.control, &self.caller, self.instance, &self.prefix).await;
        (self.asker, _, _) = admitted.map_err(|_| Untold::Denied)?;
        Ok(())
    }
}

fn tags(key: &Key, kept: Option<&Versioned>) -> Result<Option<Vec<Tag>>, Untold> {
    let record = kept.map(|kept| decode::<InstanceRecord>(key, kept)).transpose()?;
    Ok(record.map(|record| record.tags))
}

fn decode<T: Record>(key: &Key, kept: &Versioned) -> Result<T, Untold> {
    serde_json::from_slice(&kept.value).map_err(|error| damaged(key, &error.to_string()))
}

fn damaged(key: &Key, reason: &str) -> Untold {
    tracing::error!(%key, reason, "a record can't be read, and its watcher is to read anew");
    Untold::Anew
}

/// Why a transaction is not told to the watcher.
#[derive(Debug)]
enum Untold {
    /// It may watch no more.
    Denied,
    /// It has other rights than before, or what changed can't be read: never is that told as a deletion.
    Anew,
}

/// The watch is over.
#[derive(Debug)]
struct End;

async fn admit(
    control: &Control,
    caller: &Caller,
    instance: InstanceId,
    prefix: &PathPrefix,
) -> Result<(Asker, AccountId, u64), Failure> {
    let op = Op::WatchInstanceData {
        instance,
        prefix: prefix.clone(),
    };
    let done = control.look(&Model, op, caller.clone(), None).await?;
    match done.reply {
        Reply::Watching { asker, account } => Ok((asker, account, done.revision.n)),
        _ => Err(Failure::unexpected()),
    }
}
