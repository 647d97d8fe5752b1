//! Secret values: sealed before the rules see them, opened for those who are shown them.
//!
//! [`Sealing`] goes over the values of an operation before it is stepped, and seals those that are for a secret entry:
//! one that the request says is secret, or of which it says nothing and that is secret in the state that is stepped on.
//! From then on nothing holds the value in the clear: the rules see how long it is, records its name, which is a digest
//! of the sealed bytes, and the store the sealed bytes.
//!
//! What is sealed is bound to its entry, and opens for no other. The operation's id is the salt, so that an operation
//! that is sent again comes to the same bytes, and the same value put again to others.

use moorline_shared::entry::Value;
use moorline_shared::{Digest, EntryPath, InstanceId, OperationId};

use super::content::{Content, LongValue, Looks, Sealed, Secrecy};
use super::operation::Env;
use super::record::Record;
use super::view::{Load, View, fresh_instance};
use crate::identity::master::{MasterKey, Purpose};
use crate::instance_data::records::EntryRecord;
use crate::services::AnyOp;
use crate::store::ReadError;

/// Seals what an operation brings for secret entries.
pub struct Sealing<'a, 'v> {
    master: &'a MasterKey,
    operation: OperationId,
    secrets: Secrets<'a, 'v>,
    /// A read was not at hand.
    missing: Option<Load>,
}

/// What says of entries that they are secret where the request doesn't.
enum Secrets<'a, 'v> {
    /// The state that the operation is stepped on.
    State(&'a mut View<'v>, &'a Env),
    /// The record of an earlier try of the same request: of each value whether it was sealed.
    Recorded(std::vec::IntoIter<Secrecy>),
}

impl<'a, 'v> Sealing<'a, 'v> {
    /// Seals as `state` says. Nothing that is read through it is guarded: the step reads it again.
    pub fn by_state(master: &'a MasterKey, env: &'a Env, state: &'a mut View<'v>) -> Self {
        Self {
            master,
            operation: env.operation,
            secrets: Secrets::State(state, env),
            missing: None,
        }
    }

    /// Seals what was sealed in an earlier try of the same request, whatever became of the entries since.
    pub fn as_recorded(master: &'a MasterKey, operation: OperationId, asked: &AnyOp) -> Self {
        let mut asked = asked.clone();
        let sealed: Vec<_> = asked.contents().iter().map(|content| content.secrecy()).collect();
        Self {
            master,
            operation,
            secrets: Secrets::Recorded(sealed.into_iter()),
            missing: None,
        }
    }

    /// Seals `content` if it is for a secret entry. Operations offer their values in the order of their contents.
    pub fn value(
        &mut self,
        instance: InstanceId,
        path: &EntryPath,
        said: Option<Secrecy>,
        content: &mut Content,
    ) {
        if self.secrecy(instance, path, said) == Secrecy::Secret
            && let Content::Inline(value) = &*content
        {
            *content = seal(self.master, self.operation, instance, path, value);
        }
    }

    /// The id of the `nth` instance that the operation makes, counted from 1.
    pub fn fresh_instance(&self, nth: u64) -> InstanceId {
        fresh_instance(&self.operation, nth)
    }

    /// Fails if something was not at hand that the state was asked for; all of it has been asked for then.
    pub fn finish(self) -> Result<(), Load> {
        self.missing.map_or(Ok(()), Err)
    }

    fn secrecy(&mut self, instance: InstanceId, path: &EntryPath, said: Option<Secrecy>) -> Secrecy {
        match (&mut self.secrets, said) {
            (Secrets::Recorded(sealed), _) => sealed.next().unwrap_or(Secrecy::Open),
            (Secrets::State(..), Some(said)) => said,
            (Secrets::State(view, env), None) => match view.get::<EntryRecord>(&(instance, path.clone())) {
                Ok(Some(entry)) if entry.is_valid(env.now) => entry.content.secrecy(),
                Ok(_) => Secrecy::Open,
                Err(load) => {
                    self.missing = Some(load);
                    Secrecy::Open
                }
            },
        }
    }
}

/// What a value is bound to: the id has a fixed length, so that no two entries are bound to the same.
fn entry(instance: InstanceId, path: &EntryPath) -> Vec<u8> {
    [&instance.bytes()[..], path.as_bytes()].concat()
}

fn seal(
    master: &MasterKey,
    operation: OperationId,
    instance: InstanceId,
    path: &EntryPath,
    value: &Value,
) -> Content {
    let (entry, salt) = (entry(instance, path), operation.digest());
    let sealed = master.seal(Purpose::Entry, &entry, salt.bytes(), value.bytes());
    Content::Sealed(Sealed {
        digest: Digest::of(&sealed),
        length: value.len() as u64,
        looks: Looks::of(value),
        bytes: Some(Value::from(bytes::Bytes::from(sealed))),
    })
}

/// The value of an entry, opened if it is sealed. Its bytes must be at hand.
///
/// Fails if a sealed one was changed, belongs to another entry, or was sealed under another master key.
pub fn open(
    master: &MasterKey,
    instance: InstanceId,
    path: &EntryPath,
    content: &Content,
) -> Result<Value, ReadError> {
    let damaged = |reason: String| ReadError::Damaged {
        key: content.digest().map_or_else(
            || EntryRecord::key(&(instance, path.clone())),
            |digest| LongValue::key(&(instance, path.clone(), digest)),
        ),
        reason,
    };
    let Some(bytes) = content.at_hand() else {
        return Err(damaged("the value is gone".to_owned()));
    };
    if content.secrecy() == Secrecy::Open {
        return Ok(bytes.clone());
    }
    let opened = master.unseal(Purpose::Entry, &entry(instance, path), bytes.bytes());
    opened
        .map(Value::from)
        .map_err(|error| damaged(error.to_string()))
}
