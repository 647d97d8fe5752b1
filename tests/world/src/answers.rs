//! What hosts ask of the control plane in the name of their guests, and what it answers.

use bytes::Bytes;
use moorline_control::instance_data::operations::{Op as Data, Reply as Seen, Shown, Values};
use moorline_control::instance_data::rules::NewValue;
use moorline_control::instance_data::{self};
use moorline_control::model::OperationRecord;
use moorline_control::model::{Caller, Content, ExecuteError, Record as _, Role};
use moorline_host::link::{MissKey, Page, PageEntry, Refusal, Reply};
use moorline_shared::api::data::{Changed, Entry, PutEntry};
use moorline_shared::api::{IDEMPOTENCY_KEY, KEY_REUSED, OPERATION, ProblemDetails};
use moorline_shared::entry::Value;
use moorline_shared::link::body::{Code, Listed, Relay};
use moorline_shared::{EntryPath, InstanceId, OperationId, PathPrefix, Principal};

use crate::plane::{Plane, at_once, caller, host_id};

const UNAVAILABLE: u16 = 503;

fn guest(host: usize, reader: InstanceId) -> Caller {
    Caller {
        via: Some(host_id(host)),
        ..caller(Principal::Instance(reader), Role::Member)
    }
}

/// What a refused read is to a host, as `uplink/questions.rs` says it.
fn refusal(error: &ExecuteError) -> Refusal {
    let ExecuteError::Refused { shown, revision, .. } = error else {
        return Refusal::new(Code::Unavailable, "the control plane is out of reach");
    };
    let code = match shown.status {
        404 | 410 => Code::NotFound,
        401 | 403 => Code::Denied,
        _ => Code::Invalid,
    };
    Refusal::new(code, shown.detail.clone()).as_of(Some(*revision))
}

fn away() -> Refusal {
    Refusal::new(Code::Unavailable, "the control plane is out of reach")
}

fn whole(shown: Shown) -> Entry {
    let value = shown.content.as_ref().and_then(Content::at_hand).cloned();
    Entry { value, ..shown.entry }
}

impl Plane {
    /// One entry.
    pub fn entry(&mut self, host: usize, key: &MissKey) -> Result<Box<Entry>, Refusal> {
        let (instance, path) = (key.instance, key.path.clone());
        let op = Data::GetInstanceData { instance, path };
        match self.look(op, guest(host, key.reader)) {
            None => Err(away()),
            Some(Err(error)) => Err(refusal(&error)),
            Some(Ok(done)) => match done.reply {
                Seen::Entry(shown) => Ok(Box::new(whole(*shown))),
                _ => Err(away()),
            },
        }
    }

    /// All entries of a subtree.
    pub fn page(
        &mut self,
        host: usize,
        reader: InstanceId,
        instance: InstanceId,
        prefix: PathPrefix,
    ) -> Result<Page, Refusal> {
        let op = Data::ListInstanceData {
            instance,
            prefix,
            after: None,
            limit: 1_000,
            values: Values::LeftOut,
        };
        match self.look(op, guest(host, reader)) {
            None => Err(away()),
            Some(Err(error)) => Err(refusal(&error)),
            Some(Ok(done)) => match done.reply {
                Seen::Page { entries, .. } => Ok(Page {
                    revision: done.revision,
                    entries: entries.into_iter().map(listed).collect(),
                }),
                _ => Err(away()),
            },
        }
    }

    /// A request as a guest made it.
    pub fn relayed(&mut self, host: usize, reader: InstanceId, relay: &Relay) -> Reply {
        let request = (relay.method.as_str(), relay.target.as_str());
        match request {
            ("GET", target) => self.record(target),
            _ => match change(relay) {
                Some((op, id)) => self.changed(host, reader, op, id),
                None => reply(400, None, &problem("malformed", 400)),
            },
        }
    }

    fn changed(&mut self, host: usize, reader: InstanceId, op: Data, key: &str) -> Reply {
        let caller = guest(host, reader);
        let key = key.parse().expect("agents make keys");
        let id = OperationId::derive(&caller.principal, &key);
        match self.change(&instance_data::Model, op, caller, Some(id)) {
            None => reply(UNAVAILABLE, None, &problem("away", UNAVAILABLE)),
            Some(Ok(done)) => {
                let (revision, operation) = (done.revision, done.operation);
                let changed = Changed { revision, operation };
                reply(200, Some(operation), &json(&changed))
            }
            Some(Err(ExecuteError::Refused { shown, operation, .. })) => {
                reply(shown.status, operation, &json(&shown))
            }
            Some(Err(ExecuteError::KeyReused)) => reply(409, None, &problem(KEY_REUSED, 409)),
            Some(Err(_)) => reply(UNAVAILABLE, None, &problem("failed", UNAVAILABLE)),
        }
    }

    /// The record of an operation, if there is one.
    fn record(&self, target: &str) -> Reply {
        if !self.runs() {
            return reply(UNAVAILABLE, None, &problem("away", UNAVAILABLE));
        }
        let id = target.rsplit('/').next().and_then(|id| id.parse().ok());
        let found = id.is_some_and(|id| self.has_record(&id));
        reply(if found { 200 } else { 404 }, None, &[])
    }

    /// Whether there is a record of the operation.
    pub fn has_record(&self, id: &OperationId) -> bool {
        let key = OperationRecord::key(id);
        let found = at_once(self.store().get(self.head().n, &key));
        found.is_ok_and(|found| found.is_some())
    }
}

fn listed(shown: Shown) -> PageEntry {
    let entry = shown.entry;
    let listed = Listed {
        path: entry.path,
        revision: entry.revision,
        content_type: entry.content_type.as_str().to_owned(),
        length: u32::try_from(entry.length).unwrap_or(u32::MAX),
    };
    PageEntry {
        listed,
        secret: entry.secret,
    }
}

/// The change that a guest asks for, and its key.
fn change(relay: &Relay) -> Option<(Data, &str)> {
    let rest = relay.target.strip_prefix("/v1/instances/")?;
    let (instance, path) = rest.split_once("/data/")?;
    let (instance, path): (InstanceId, EntryPath) = (instance.parse().ok()?, path.parse().ok()?);
    let value = relay.body.clone();
    let op = match relay.method.as_str() {
        "PUT" => Data::PutInstanceData {
            instance,
            path,
            guard: None,
            new: NewValue::from(PutEntry::value(value)),
        },
        "POST" => Data::AppendInstanceData {
            instance,
            path,
            guard: None,
            content: Content::Inline(value),
        },
        "DELETE" => Data::DeleteInstanceData {
            instance,
            path,
            guard: None,
        },
        _ => return None,
    };
    let mut headers = relay.headers.iter();
    let (_, key) = headers.find(|(name, _)| name == IDEMPOTENCY_KEY)?;
    Some((op, key))
}

fn json<T: serde::Serialize>(body: &T) -> Vec<u8> {
    serde_json::to_vec(body).expect("bodies can be expressed in JSON")
}

fn problem(kind: &'static str, status: u16) -> Vec<u8> {
    json(&ProblemDetails::new(kind, kind, status, kind))
}

fn reply(status: u16, operation: Option<OperationId>, body: &[u8]) -> Reply {
    let named = operation.map(|id| (OPERATION.to_owned(), id.to_string()));
    Reply {
        status,
        headers: named.into_iter().collect(),
        body: Bytes::copy_from_slice(body),
    }
}

/// A value of so many bytes that begins with `text`.
pub fn value(text: &str, size: usize) -> Value {
    let mut text = text.to_owned();
    while text.len() < size {
        text.push('.');
    }
    Value::from(text.as_str())
}
