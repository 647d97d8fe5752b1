//! Entries shown: one, a page of them, the published listing.

use moorline_shared::access::{Right, Rights};
use moorline_shared::api::data::{Described, Entry};
use moorline_shared::entry::Visibility;
use moorline_shared::{EntryPath, PathPrefix};

use super::operations::{More, Reply, Shown, Values};
use super::records::EntryRecord;
use super::rules::{Data, Step};
use crate::model::Kept;

pub(super) fn get(data: &mut Data<'_, '_>, path: &EntryPath) -> Step<Reply> {
    let (entry, content, rights) = data.read(path)?;
    let (entry, content) = (shown(&entry, rights), Some(content));
    Ok(Reply::Entry(Box::new(Shown { entry, content })))
}

/// An entry as a caller with these rights sees it, without its value.
pub(super) fn shown(entry: &Kept<EntryRecord>, rights: Rights) -> Entry {
    Entry {
        path: entry.path.clone(),
        revision: entry.revision.unwrap_or_default(),
        version: entry.version,
        content_type: entry.content_type.clone(),
        length: entry.content.len(),
        value: None,
        origin: entry.origin,
        visibility: entry.visibility,
        secret: entry.is_secret(),
        expires_at: entry.expires_at,
        changed_by: entry.changed_by.clone(),
        changed_at: entry.changed_at,
        access: rights.has(Right::Administer).then(|| entry.access.clone()),
    }
}

pub(super) fn list(
    data: &mut Data<'_, '_>,
    prefix: &PathPrefix,
    after: Option<&EntryPath>,
    limit: usize,
    values: Values,
) -> Step<Reply> {
    let all = data.all()?;
    let mut readable: Vec<_> = all
        .into_iter()
        .filter(|(entry, rights)| rights.has(Right::Read) && prefix.covers(&entry.path))
        .filter(|(entry, _)| after.is_none_or(|after| entry.path > *after))
        .take(limit.saturating_add(1))
        .collect();
    let more = if readable.len() > limit {
        More::Yes
    } else {
        More::No
    };
    readable.truncate(limit);
    if values == Values::Shown {
        data.foresee_values(readable.iter().map(|(entry, _)| (&entry.path, &entry.content)))?;
    }
    let mut entries = Vec::new();
    for (entry, rights) in readable {
        let content = match values {
            Values::Shown => Some(data.value(&entry.path, &entry.content)?),
            Values::LeftOut => None,
        };
        let entry = shown(&entry, rights);
        entries.push(Shown { entry, content });
    }
    Ok(Reply::Page { entries, more })
}

pub(super) fn describe(data: &mut Data<'_, '_>) -> Step<Reply> {
    let all = data.all()?;
    let public = all
        .into_iter()
        .filter(|(entry, _)| entry.visibility == Visibility::Public);
    let known = public.filter(|(entry, rights)| data.may_know(entry, *rights));
    Ok(Reply::Description(
        known
            .map(|(entry, rights)| Described {
                path: entry.path.clone(),
                content_type: entry.content_type.clone(),
                origin: entry.origin,
                secret: entry.is_secret(),
                readable: rights.has(Right::Read),
            })
            .collect(),
    ))
}
