//! What views come to, by which a host is compared with what it should have.
//!
//! A view changes only with a transaction that touched its reader or its instance, and the dispatcher knows the last of
//! those. So a digest is made once after each, and a host of which nothing changed is compared without a look at the
//! store: a thousand views take a thousand look-ups and one digest of 64 KiB. What is kept is bounded; beyond that it is
//! made anew, which takes a few reads of the store for each view.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use moorline_shared::api::feed::{View, ViewEntry, ViewId};
use moorline_shared::api::sync::{HostSync, SyncHost, ViewState, together};
use moorline_shared::digest::{Row, ViewDigest};
use moorline_shared::{Digest, Timestamp};

use super::feeds::Held;
use super::views::{Readable, Views};
use crate::store::ReadError;

/// The most digests that are kept: about 30 MB.
const MOST: usize = 262_144;

/// Digests that were made, each with what it is good for.
#[derive(Debug, Default)]
pub struct Digests(Mutex<HashMap<ViewId, Known>>);

#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// The last transaction that may have changed the view.
    pub(super) touched: u64,
    /// When the first of its entries ends, if one does.
    pub(super) until: Option<Timestamp>,
    pub(super) digest: Digest,
}

impl Digests {
    /// What the view comes to as transaction `touched` left it, if that is known and no entry has ended since.
    pub(super) fn get(&self, view: ViewId, touched: u64, now: Timestamp) -> Option<Digest> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(&view)?;
        let is_good = known.touched == touched && known.until.is_none_or(|until| now < until);
        is_good.then_some(known.digest)
    }

    pub(super) fn put(&self, view: ViewId, known: Known) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST && !all.contains_key(&view) {
            // Those of hosts that still come are soon back.
            all.clear();
        }
        all.insert(view, known);
    }
}

impl Views {
    /// Whether a host has what it should at the revision that it names: the views that it holds, as the dispatcher knows
    /// them, without those that it says it lacks. `now` decides which entries have ended.
    pub async fn compare(&self, said: &SyncHost, held: &Held, now: Timestamp) -> Result<HostSync, ReadError> {
        let at = said.revision.n;
        if held.changed > at {
            return Ok(HostSync::Later);
        }
        let lacks = |view: &ViewId| view.reader == view.instance && said.without.contains(&view.instance);
        let mut views = Vec::with_capacity(held.views.len());
        for (view, touched) in held.views.iter().filter(|(view, _)| !lacks(view)) {
            match self.digest(at, *view, *touched, now).await? {
                Some(digest) => views.push(ViewState { view: *view, digest }),
                None => return Ok(HostSync::Later),
            }
        }
        if together(&views) == said.digest {
            Ok(HostSync::InStep)
        } else {
            Ok(HostSync::Differs { views })
        }
    }

    /// What the view comes to at revision `at`; `None` if some of it can't be read.
    async fn digest(
        &self,
        at: u64,
        view: ViewId,
        touched: u64,
        now: Timestamp,
    ) -> Result<Option<Digest>, ReadError> {
        if touched <= at
            && let Some(digest) = self.digests().get(view, touched, now)
        {
            return Ok(Some(digest));
        }
        let Readable { view: whole, damage } = self.readable(at, view).await?;
        if !damage.is_empty() {
            return Ok(None);
        }
        let (digest, until) = digest_of(&whole, now);
        if touched <= at {
            let known = Known {
                touched,
                until,
                digest,
            };
            self.digests().put(view, known);
        }
        Ok(Some(digest))
    }
}

/// What the entries come to that have not ended at `now`, and when the first of them does.
pub(super) fn digest_of(view: &View, now: Timestamp) -> (Digest, Option<Timestamp>) {
    let is_valid = |entry: &&ViewEntry| entry.entry.expires_at.is_none_or(|end| now < end);
    let valid = || view.entries.iter().filter(is_valid);
    let digest = ViewDigest::of(valid().map(|ViewEntry { path, entry }| Row {
        path: path.as_str(),
        revision: entry.revision,
        content_type: entry.content_type.as_str(),
        secret: entry.secret,
        value: Digest::of(entry.value.bytes()),
    }));
    (digest, valid().filter_map(|entry| entry.entry.expires_at).min())
}
