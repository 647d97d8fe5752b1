//! What callers are shown, with the values put in: those of secret entries are opened here and nowhere before.

use moorline_shared::InstanceId;
use moorline_shared::api::data::{Entry, History, PastChange};

use super::operations::{Past, Shown};
use crate::identity::master::MasterKey;
use crate::model::sealing::open;
use crate::store::ReadError;

/// The entry of `instance` with its value.
pub(crate) fn entry(master: &MasterKey, instance: InstanceId, shown: Shown) -> Result<Entry, ReadError> {
    let Shown { entry, content } = shown;
    let value = content.map(|content| open(master, instance, &entry.path, &content));
    Ok(Entry {
        value: value.transpose()?,
        ..entry
    })
}

/// These entries of `instance`, likewise.
pub(crate) fn entries(
    master: &MasterKey,
    instance: InstanceId,
    shown: Vec<Shown>,
) -> Result<Vec<Entry>, ReadError> {
    let shown = shown.into_iter();
    shown.map(|shown| entry(master, instance, shown)).collect()
}

/// The changes of the entry at `path` with the values before and after.
pub(crate) fn history(
    master: &MasterKey,
    (instance, path): &(InstanceId, moorline_shared::EntryPath),
    changes: Vec<Past>,
    next: Option<String>,
) -> Result<History, ReadError> {
    let value = |content: Option<_>| {
        content
            .map(|content| open(master, *instance, path, &content))
            .transpose()
    };
    let change = |past: Past| {
        Ok(PastChange {
            from: value(past.from)?,
            to: value(past.to)?,
            ..past.change
        })
    };
    let changes = changes.into_iter().map(change).collect::<Result<_, _>>()?;
    Ok(History { changes, next })
}
