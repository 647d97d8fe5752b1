//! A host that comes back is brought what was touched since its cursor, whatever the store has forgotten of it.

use std::collections::BTreeSet;
use std::time::Duration;

use moorline_shared::api::feed::{FeedItem, FeedMessage, ViewId};
use tokio_util::sync::CancellationToken;

use super::World;
use crate::http::feed::Dispatcher;
use crate::identity::master::MasterKey;
use crate::instance_data::Op;
use crate::instance_data::rules::NewValue;
use crate::settings::AccessControl;

impl World {
    pub(super) async fn put(&mut self, nth: usize, path: &str, value: &str) {
        let op = Op::PutInstanceData {
            instance: self.instance(nth),
            path: path.parse().unwrap(),
            guard: None,
            new: NewValue::text(value),
        };
        self.change(op).await;
    }

    /// Another process takes over the store.
    async fn restart(&mut self) {
        self.lose().await;
        let store = self.executor.store();
        let (dispatcher, handle) = Dispatcher::new(store, AccessControl::Enforced, MasterKey::for_tests())
            .await
            .unwrap();
        self.handle = handle;
        self.tasks
            .spawn(async move { dispatcher.run(CancellationToken::new()).await.unwrap() });
    }

    /// Waits until the dispatcher has seen all that was committed: what it sees later comes behind a snapshot.
    pub(super) async fn dispatched(&self) {
        let head = self.executor.store().head().await.unwrap();
        let seen = async {
            while self.handle.position() < head {
                tokio::task::yield_now().await;
            }
        };
        let patience = Duration::from_secs(20);
        tokio::time::timeout(patience, seen)
            .await
            .expect("the dispatcher stands still");
    }

    /// Opens the feed where the host stands. Returns which views the snapshot brings.
    async fn resume(&mut self) -> BTreeSet<ViewId> {
        self.dispatched().await;
        self.connect().await;
        let mut brought = BTreeSet::new();
        loop {
            let message = self.messages.as_mut().unwrap().recv().await.unwrap();
            match &message {
                FeedMessage::Snapshot { from, .. } => assert_eq!(*from, self.host.cursor),
                FeedMessage::Part { items } => brought.extend(items.iter().filter_map(|item| match item {
                    FeedItem::View(view) => Some(view.view),
                    _ => None,
                })),
                _ => {}
            }
            let is_last = matches!(message, FeedMessage::SnapshotEnd { .. });
            self.host.apply(message);
            if is_last {
                return brought;
            }
        }
    }
}

#[tokio::test]
async fn a_snapshot_from_a_cursor_brings_what_was_touched_since() {
    let mut world = World::new().await;
    let [a, b] = [0, 1].map(|nth| ViewId::own(world.instance(nth)));
    assert_eq!(world.resume().await, [a, b].into());

    for round in 0..2 {
        let value = round.to_string();
        world.put(0, "a", &value).await;
        world.settle().await;
        if round == 0 {
            world.lose().await;
        } else {
            world.restart().await;
        }
        assert_eq!(world.resume().await, BTreeSet::new(), "nothing happened");
        world.lose().await;
        world.put(1, "b", &value).await;
        let delete = Op::DeleteInstanceData {
            instance: b.instance,
            path: "b".parse().unwrap(),
            guard: None,
        };
        world.change(delete).await;
        let store = world.executor.store();
        store.compact(store.head().await.unwrap()).await.unwrap();
        if round == 1 {
            world.restart().await;
        }
        assert_eq!(world.resume().await, [b].into(), "round {round}");
        world.check().await;
    }
}
