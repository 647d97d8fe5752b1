//! Whether a host has what it should, asked from time to time beside the feed.
//!
//! The host says up to where it has applied the feed, and one digest over all its views there. Where that is what the
//! control plane comes to, the answer is a word. Where it isn't, the control plane says the digest of each view that the
//! host should have, and the host asks for those that differ, whole: what the control plane has is what counts.

use serde::{Deserialize, Serialize};

use super::feed::ViewId;
use crate::digest::Digest;
use crate::id::InstanceId;
use crate::revision::Revision;

/// `SyncHost`: what a host has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SyncHost {
    /// Up to where the host has applied everything.
    pub revision: Revision,
    /// What its views there come to together: see [`together`].
    pub digest: Digest,
    /// The views of other instances that are among them, 65,536 at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign: Vec<ViewId>,
    /// The instances of the host whose views of themselves are not: they are being asked for, or too large to be kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<InstanceId>,
}

/// How a host fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum HostSync {
    /// It has what it should.
    InStep,
    /// It hasn't.
    Differs {
        /// Every view that it should have, of those that it was asked about.
        views: Vec<ViewState>,
    },
    /// Nobody can tell: which instances are the host's changed after the revision, or some entry can't be read. Ask again
    /// later.
    Later,
}

/// A view, and what it comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ViewState {
    /// Which.
    pub view: ViewId,
    /// The digest of its entries, as [`crate::digest::ViewDigest`] makes it of those that are valid.
    pub digest: Digest,
}

/// What several views come to together, in the order of their readers and then of their instances: SHA-256 over the
/// reader's 16 bytes, the instance's 16 and the digest's 32 of each.
pub fn together(views: &[ViewState]) -> Digest {
    let mut sorted: Vec<_> = views.iter().collect();
    sorted.sort_unstable();
    let mut bytes = Vec::with_capacity(sorted.len() * 64);
    for ViewState { view, digest } in sorted {
        bytes.extend_from_slice(view.reader.bytes());
        bytes.extend_from_slice(view.instance.bytes());
        bytes.extend_from_slice(digest.bytes());
    }
    Digest::of(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_in_which_views_are_said_is_nothing() {
        let state = |reader, instance, value: &str| ViewState {
            view: ViewId {
                reader: InstanceId::from_bytes([reader; 16]),
                instance: InstanceId::from_bytes([instance; 16]),
            },
            digest: Digest::of(value.as_bytes()),
        };
        let views = [state(1, 1, "a"), state(1, 2, "b"), state(2, 2, "c")];
        let mut turned = views;
        turned.reverse();
        assert_eq!(together(&views), together(&turned));
        assert_ne!(together(&views), together(&views[..2]));
        assert_ne!(together(&[]), together(&views[..1]));
        let other = [views[0], views[1], state(2, 2, "d")];
        assert_ne!(together(&views), together(&other));
    }
}
