//! A host that is compared with its control plane.

use moorline_shared::Digest;
use moorline_shared::api::sync::{ViewState, together};
use moorline_shared::digest::{Row, ViewDigest};

use super::*;
use crate::cache::FeedBatch;

/// The view of an instance on itself, with `a` of this value, last changed at this revision.
fn state(n: u8, changed: u64, value: &str) -> ViewState {
    let row = Row {
        path: "a",
        revision: revision(changed),
        content_type: "text/plain",
        secret: false,
        value: Digest::of(value.as_bytes()),
    };
    ViewState {
        view: ViewId::own(id(n)),
        digest: ViewDigest::of([row]),
    }
}

impl World {
    /// What the host says at the bookmark with which it is compared next.
    async fn compared(&mut self, lines: &mpsc::UnboundedSender<FeedMessage>, at: u64) -> SyncHost {
        let revision = revision(at);
        let compared = async {
            loop {
                lines.send(FeedMessage::Bookmark { revision }).unwrap();
                let said = tokio::time::timeout(Duration::from_millis(50), self.syncs.recv()).await;
                if let Ok(said) = said {
                    return said;
                }
            }
        };
        soon(compared).await
    }

    fn answer(&self, sync: HostSync) {
        *self.plane.sync.lock().unwrap() = sync;
    }
}

#[tokio::test]
async fn a_host_in_step_says_one_thing_and_asks_for_nothing() {
    let mut world = World::new().await;
    let lines = world.begun().await;
    for at in [6, 7] {
        let said = world.compared(&lines, at).await;
        assert_eq!(said.revision, revision(at));
        assert_eq!(said.digest, together(&[state(1, 5, "0")]));
        assert!(said.foreign.is_empty() && said.without.is_empty());
    }
    assert!(world.views.try_recv().is_err());
    world.end().await;
}

#[tokio::test]
async fn a_view_that_was_changed_behind_the_feeds_back_is_asked_for_and_healed() {
    let mut world = World::new().await;
    let lines = world.begun().await;
    // Nothing of this came over the feed.
    let wrong = FeedBatch {
        from: Some(revision(5)),
        to: revision(6),
        items: vec![put_own(1, 6, "wrong")],
    };
    world.handle().apply(wrong).await.unwrap();
    let right = state(1, 5, "0");
    world.answer(HostSync::Differs { views: vec![right] });
    *world.plane.view.lock().unwrap() = Some(view(1, 1, 5, &[("a", "0")]));
    let said = world.compared(&lines, 7).await;
    assert_eq!(said.digest, together(&[state(1, 6, "wrong")]));
    assert_eq!(soon(world.views.recv()).await, ViewId::own(id(1)));
    // What came is of a time before the comparison: it is asked for again until it is not.
    let FeedItem::View(mut later) = view(1, 1, 5, &[("a", "0")]) else {
        unreachable!("it is a view")
    };
    later.revision = revision(7);
    *world.plane.view.lock().unwrap() = Some(FeedItem::View(later));
    world.answer(HostSync::InStep);
    loop {
        if world.compared(&lines, 8).await.digest == together(&[right]) {
            break;
        }
    }
    world.end().await;
}

#[tokio::test]
async fn a_host_with_other_instances_than_its_own_begins_anew() {
    let mut world = World::new().await;
    let lines = world.begun().await;
    let views = vec![state(1, 5, "0"), state(2, 5, "0")];
    world.answer(HostSync::Differs { views });
    world.compared(&lines, 6).await;
    let again = world.opened().await;
    assert_eq!(again.asked.cursor, None);
    world.end().await;
}

#[tokio::test]
async fn a_control_plane_that_cannot_tell_changes_nothing() {
    let mut world = World::new().await;
    let lines = world.begun().await;
    world.answer(HostSync::Later);
    world.compared(&lines, 6).await;
    world.compared(&lines, 7).await;
    assert!(world.views.try_recv().is_err() && world.opened.try_recv().is_err());
    world.end().await;
}
