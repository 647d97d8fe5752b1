//! The past of an entry.

use moorline_shared::api::data::{History, PastChange};
use moorline_shared::entry::Value;
use moorline_shared::{EntryPath, InstanceId};

use super::operations::Reply;
use super::records::ChangeRecord;
use super::refusal::Refusal;
use super::rules::{Data, Step};
use crate::model::{Env, Kept, Page, Record, Stop, View};
use crate::store::Key;

/// One row more than asked for is read: it tells the value before the oldest change of the page.
pub(super) fn history(
    v: &mut View<'_>,
    env: &Env,
    instance: InstanceId,
    path: &EntryPath,
    before: Option<&str>,
    limit: usize,
) -> Step<Reply> {
    let of = (instance, path.clone());
    let after = before.map(|row| cursor(&of, row)).transpose()?;
    let rows = v.scan::<ChangeRecord>(
        &of,
        &Page {
            after,
            limit: limit + 1,
        },
    )?;
    let mut data = Data::open(v, env, instance, "GetInstanceDataHistory")?;
    data.foresee_values(rows.iter().filter_map(|row| Some((path, row.to.as_ref()?))))?;
    let mut changes = Vec::new();
    for (i, row) in rows.iter().take(limit).enumerate() {
        let from = rows.get(i + 1).and_then(|older| older.to.clone());
        let from = from.map(|content| data.value(path, &content)).transpose()?;
        let to = row
            .to
            .as_ref()
            .map(|content| data.value(path, content))
            .transpose()?;
        changes.push(past(row, from, to));
    }
    let more = rows.len() > limit;
    let next = rows
        .get(limit.wrapping_sub(1))
        .filter(|_| more)
        .map(|row| row_of(row));
    Ok(Reply::History(History { changes, next }))
}

fn past(row: &Kept<ChangeRecord>, from: Option<Value>, to: Option<Value>) -> PastChange {
    PastChange {
        revision: row.revision.unwrap_or_default(),
        operation: row.operation,
        api: row.api.clone(),
        principal: row.principal.clone(),
        at: row.at,
        from,
        to,
    }
}

/// The cursor of a change: the end of its key, which names no more than the page itself does.
fn row_of(row: &ChangeRecord) -> String {
    let key = row.own_key().to_string();
    key.rsplit('/').next().unwrap_or_default().to_owned()
}

fn cursor(of: &(InstanceId, EntryPath), row: &str) -> Step<Key> {
    let plain = row.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') && row.len() <= 128;
    let key = format!("{}{row}", ChangeRecord::prefix(of));
    Key::try_from(key)
        .ok()
        .filter(|_| plain)
        .ok_or(Stop::Refused(Refusal::Cursor))
}
