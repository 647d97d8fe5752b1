//! The past of an entry.

use moorline_shared::EntryPath;
use moorline_shared::api::data::PastChange;

use super::operations::{Past, Reply};
use super::records::ChangeRecord;
use super::refusal::Refusal;
use super::rules::{Data, Step};
use crate::model::{Kept, Record, Stop};

/// A page of the changes that are shown, after the one whose row is `before`.
///
/// The row after them tells the value before the oldest.
pub(super) fn history(
    data: &mut Data<'_, '_>,
    path: &EntryPath,
    before: Option<&str>,
    limit: usize,
) -> Step<Reply> {
    let rows = data.changes(path)?;
    data.look_back(path, &rows)?;
    let start = before.map_or(Ok(0), |row| after(&rows, row))?;
    let end = rows.len().min(data.most_changes());
    let page = start..end.min(start.saturating_add(limit));
    let contents = rows.iter().take(page.end + 1).skip(start);
    data.foresee_values(contents.filter_map(|row| Some((path, row.to.as_ref()?))))?;
    let mut changes = Vec::new();
    for i in page.clone() {
        let from = rows.get(i + 1).and_then(|older| older.to.as_ref());
        let from = from.map(|content| data.value(path, content)).transpose()?;
        let to = rows[i].to.as_ref();
        let to = to.map(|content| data.value(path, content)).transpose()?;
        let change = past(&rows[i]);
        changes.push(Past { change, from, to });
    }
    let last = page.end.checked_sub(1).filter(|_| page.end < end);
    let next = last.map(|last| row_of(&rows[last]));
    Ok(Reply::History { changes, next })
}

fn past(row: &Kept<ChangeRecord>) -> PastChange {
    PastChange {
        revision: row.revision.unwrap_or_default(),
        operation: row.operation,
        api: row.api.clone(),
        principal: row.principal.clone(),
        at: row.at,
        from: None,
        to: None,
    }
}

/// The cursor of a change: the end of its key, which names no more than the page itself does.
fn row_of(row: &ChangeRecord) -> String {
    let key = row.own_key().to_string();
    key.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Where the page after the row begins. A row that is gone was the oldest, so that nothing comes after it.
fn after(rows: &[Kept<ChangeRecord>], row: &str) -> Step<usize> {
    let plain = row.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') && row.len() <= 128;
    if !plain {
        return Err(Stop::Refused(Refusal::Cursor));
    }
    let at = rows.iter().position(|kept| row_of(kept) == row);
    Ok(at.map_or(rows.len(), |at| at + 1))
}
