//! Watches of users: the store's transactions, cut to what is watched and may be read.

use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use moorline_shared::access::Right;
use moorline_shared::api::data::{Entry, EntryChange, WatchEvent};
use moorline_shared::entry::Value;
use moorline_shared::{AccountId, EntryPath, InstanceId, PathPrefix, Revision};
use tokio::time::Instant;

use super::access::{Asker, Owner, rights};
use super::model::Model;
use super::operations::{Op, Reply};
use super::records::EntryRecord;
use super::show::shown;
use crate::http::Control;
use crate::http::problem::Failure;
use crate::model::content::LongValue;
use crate::model::{Caller, Content, Kept, Record};
use crate::store::{Batch, Event, ReadError, Watch, WatchError};

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
    /// The revision to begin at is gone: this is the oldest one there is.
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
                Err(error) => return Err(error.into()),
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
                Source::Lost(oldest) => {
                    return Ok(WatchEvent::Resync {
                        revision: Revision::new(self.control.executor.store().epoch(), *oldest),
                    });
                }
                Source::Watch(watch) => watch,
            };
            let batch = tokio::select! {
                // Cancel-safe: the watch keeps what was not taken.
                () = cancel.cancelled() => return Err(End),
                () = tokio::time::sleep_until(deadline) => return Ok(self.bookmark()),
                batch = watch.next() => match batch {
                    Ok(batch) => batch,
                    Err(WatchError::Compacted { oldest, .. }) => {
                        self.source = Source::Lost(oldest);
                        continue;
                    }
                    Err(_) => return Err(End),
                },
            };
            self.at = batch.n;
            let changes = self.changes(&batch).await?;
            if !changes.is_empty() {
                return Ok(WatchEvent::Changes {
                    revision: self.revision(batch.n),
                    changes,
                });
            }
        }
    }

    async fn changes(&mut self, batch: &Batch) -> Result<Vec<EntryChange>, End> {
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
            if let Ok(path) = path.parse::<EntryPath>() {
                changes.push(EntryChange {
                    entry: self.shown(event, batch).await,
                    path,
                });
            }
        }
        Ok(changes)
    }

    /// The entry as it is now, if the watcher may read it. Of one that it may not, it hears that it is gone.
    async fn shown(&self, event: &Event, batch: &Batch) -> Option<Entry> {
        let kept = event.value.as_ref()?;
        let record: EntryRecord = serde_json::from_slice(&kept.value).ok()?;
        let owner = Owner {
            instance: self.instance,
            account: &self.account,
        };
        let rights = rights(
            &self.asker,
            owner,
            &record,
            self.control.executor.settings().access,
        );
        if !rights.has(Right::Read) {
            return None;
        }
        let value = self.value(&record, batch).await?;
        let entry = Kept::new(record, self.revision(kept.modified), kept.version);
        Some(shown(&entry, Some(value), rights))
    }

    async fn value(&self, record: &EntryRecord, batch: &Batch) -> Option<Value> {
        let digest = match &record.content {
            Content::Inline(value) => return Some(value.clone()),
            Content::Named { digest, .. } => *digest,
        };
        let key = LongValue::key(&(record.instance, record.path.clone(), digest));
        let found = self.control.executor.store().read(batch.n, &[key]).await.ok()?;
        let long: LongValue = serde_json::from_slice(&found.into_iter().next()??.value).ok()?;
        Some(long.value)
    }

    /// A watcher whose own record changed is judged anew: its tags may be others now.
    async fn follow_asker(&mut self, batch: &Batch) -> Result<(), End> {
        let moorline_shared::Principal::Instance(id) = &self.caller.principal else {
            return Ok(());
        };
        let own = crate::instances::records::InstanceRecord::key(id);
        if batch.events.iter().any(|event| event.key == own) {
            let admitted = admit(&self.control, &self.caller, self.instance, &self.prefix).await;
            (self.asker, _, _) = admitted.map_err(|_| End)?;
        }
        Ok(())
    }
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
        _ => Err(Failure::invalid("instance", "this is no watch")),
    }
}
