//! What an operation commits: guards on all that it read, what it writes, its record, and what is to be done later.

use bytes::Bytes;

use super::journal::{Changed, ChangedTo, OperationRecord};
use super::operation::Intent;
use super::outbox;
use super::record::Record;
use super::view::{self, Trace};
use crate::store::{Guard, Key, Transaction, Write};

/// Whether scanned collections are guarded. Only the conformance suite turns it off, to see its test fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fences {
    On,
    #[cfg(test)]
    Off,
}

/// What a step changed, in the order of the keys.
pub(super) fn effects(trace: &Trace) -> Vec<Changed> {
    let changed = |(key, write): (&Key, &view::Write)| Changed {
        key: key.to_string(),
        before: trace.reads.get(key).copied().flatten(),
        to: if write.value.is_some() {
            ChangedTo::Put
        } else {
            ChangedTo::Deleted
        },
    };
    trace.writes.iter().map(changed).collect()
}

/// The transaction of an operation: its guards, its writes, its record, and what is to be done later.
pub(super) fn compose(record: &OperationRecord, trace: Trace, fences: Fences) -> Transaction {
    let mut transaction = Transaction::default();
    guard(&mut transaction, record, &trace, fences);
    let mut touched: Vec<Key> = trace
        .writes
        .values()
        .filter_map(|write| write.fence.clone())
        .collect();
    touched.sort_unstable();
    touched.dedup();
    for (key, write) in trace.writes {
        transaction.writes.push(match write.value {
            Some(value) => Write::Put(key, value),
            None => Write::Delete(key),
        });
    }
    transaction
        .writes
        .extend(touched.into_iter().map(|fence| Write::Put(fence, Bytes::new())));
    bookkeeping(&mut transaction, record, &trace.intents);
    transaction
}

fn guard(transaction: &mut Transaction, record: &OperationRecord, trace: &Trace, fences: Fences) {
    transaction
        .guards
        .push(Guard::Absent(OperationRecord::key(&record.id)));
    if let Some(row) = consumed(record) {
        transaction.guards.push(Guard::Exists(row));
    }
    let scanned = trace.fences.iter().filter(|_| fences == Fences::On);
    for (key, modified) in trace.reads.iter().chain(scanned) {
        transaction.guards.push(match modified {
            Some(n) => Guard::At(key.clone(), *n),
            None => Guard::Absent(key.clone()),
        });
    }
}

fn consumed(record: &OperationRecord) -> Option<Key> {
    record
        .consumes
        .as_ref()
        .and_then(|row| Key::try_from(row.as_str()).ok())
}

/// The rows that belong to the record itself.
fn bookkeeping(transaction: &mut Transaction, record: &OperationRecord, intents: &[Intent]) {
    let json =
        |value: serde_json::Result<Vec<u8>>| Bytes::from(value.expect("records can be expressed in JSON"));
    transaction
        .writes
        .push(Write::Put(record.own_key(), json(serde_json::to_vec(record))));
    let timeline = record.timeline();
    for row in &timeline {
        transaction
            .writes
            .push(Write::Put(row.own_key(), json(serde_json::to_vec(row))));
    }
    if let Some(row) = record.passing_refusal() {
        transaction
            .writes
            .push(Write::Put(row, json(serde_json::to_vec(&timeline))));
    }
    for (i, intent) in intents.iter().enumerate() {
        transaction.writes.push(Write::Put(
            outbox::row(intent, record.id, i),
            json(serde_json::to_vec(intent)),
        ));
    }
    transaction.writes.extend(consumed(record).map(Write::Delete));
}
