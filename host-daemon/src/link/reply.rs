//! Answers as frames: what fits the first one, and what follows it.

use std::borrow::Cow;

use bytes::Bytes;
use moorline_shared::entry::Value;
use moorline_shared::link::body::{Found, Listed, Listing, Relayed, Secrets};
use moorline_shared::link::frame::MAX_BODY;
use moorline_shared::link::session::{Host, Told};
use moorline_shared::link::{Moment, StreamId};
use moorline_shared::{EntryPath, Revision};

use super::ask::{PageEntry, Reply};
use super::clock::Standing;
use crate::cache::CachedEntry;

/// How much of a value goes into the first frame; the rest of the body is at most 160 bytes.
const FIRST_OF_VALUE: usize = MAX_BODY - 512;
/// How much of a relayed body goes into the first frame, and how much of its headers.
const FIRST_OF_BODY: usize = MAX_BODY / 2;
const MAX_HEADERS: usize = MAX_BODY / 4;
/// How many bytes of entries go into a page.
const PAGE_BYTES: usize = MAX_BODY - 512;
fn length(bytes: &Bytes) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Answers a GET.
pub(super) fn send_entry(
    core: &mut Host,
    stream: StreamId,
    entry: &CachedEntry,
    standing: Standing,
    now: Moment,
) {
    let value = entry.value.bytes();
    let first = value.len().min(FIRST_OF_VALUE);
    let found = Found {
        revision: entry.revision,
        age_ms: standing.age_ms,
        freshness: standing.freshness,
        content_type: Cow::Borrowed(entry.content_type.as_str()),
        length: length(value),
        value: Cow::Borrowed(&value[..first]),
    };
    let secret = entry.secret.then_some(0);
    tell_secrets(core, stream, &secret.into_iter().collect(), now);
    core.found(stream, &found, value.slice(first..), now);
}

/// Says which entries of what comes next on the stream are secret, if any are. Guests that don't understand it are
/// shown none.
pub(super) fn tell_secrets(core: &mut Host, stream: StreamId, secrets: &Secrets, now: Moment) {
    if !secrets.is_empty() {
        let told = core.secrets(stream, secrets, now);
        debug_assert_eq!(told, Told::Queued);
    }
}

/// An entry as a listing names it.
pub(super) fn listed(path: &EntryPath, entry: &CachedEntry) -> PageEntry {
    let listed = Listed {
        path: path.clone(),
        revision: entry.revision,
        content_type: entry.content_type.as_str().to_owned(),
        length: length(entry.value.bytes()),
    };
    PageEntry {
        listed,
        secret: entry.secret,
    }
}

/// Answers a LIST.
pub(super) fn send_listing(
    core: &mut Host,
    stream: StreamId,
    (listing, secrets): &(Listing, Secrets),
    now: Moment,
) {
    tell_secrets(core, stream, secrets, now);
    core.listing(stream, listing, now);
}

/// As many entries as fit a frame, and which of them are secret.
pub(super) fn listing(
    revision: Revision,
    standing: Standing,
    mut entries: impl Iterator<Item = PageEntry>,
) -> (Listing, Secrets) {
    let mut secrets = Secrets::default();
    let mut listing = Listing {
        revision,
        age_ms: standing.age_ms,
        freshness: standing.freshness,
        entries: Vec::new(),
        more: false,
    };
    let mut left = PAGE_BYTES;
    for PageEntry {
        listed: entry,
        secret,
    } in &mut entries
    {
        // Lengths and numbers take at most 32 bytes beside the two texts.
        let size = entry.path.len() + entry.content_type.len() + 32;
        if size > left {
            listing.more = true;
            break;
        }
        left -= size;
        if secret {
            secrets.mark(listing.entries.len());
        }
        listing.entries.push(entry);
    }
    (listing, secrets)
}

/// Answers a RELAY.
pub(super) fn send_reply(core: &mut Host, stream: StreamId, reply: Reply, now: Moment) {
    let mut headers = reply.headers;
    let mut left = MAX_HEADERS;
    headers.retain(|(name, value)| {
        let size = name.len() + value.len() + 8;
        let fits = size <= left;
        left -= if fits { size } else { 0 };
        fits
    });
    let mut first = reply.body;
    let length = length(&first);
    let rest = first.split_off(first.len().min(FIRST_OF_BODY));
    let relayed = Relayed {
        status: reply.status,
        headers,
        length,
        body: Value::from(first),
    };
    core.relayed(stream, &relayed, rest, now);
}
