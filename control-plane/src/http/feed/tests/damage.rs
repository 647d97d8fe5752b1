//! What is damaged of one instance costs the others nothing.

use moorline_shared::api::feed::ViewId;

use super::World;
use crate::store::{Range, Transaction, Write};

impl World {
    /// Takes the value of an entry away, past all rules.
    async fn damage(&self, nth: usize, path: &str) {
        let store = self.executor.store();
        let head = store.head().await.unwrap();
        let prefix = format!("value/{}/{path}", self.instance(nth));
        let page = store.range(head, &Range::prefix(&prefix)).await.unwrap();
        let mut spoiling = Transaction::default();
        spoiling.writes.push(Write::Delete(page.entries[0].0.clone()));
        store.commit(spoiling).await.unwrap();
        // A feed that is opened from now on reads the damaged state.
        self.dispatched().await;
    }

    /// The paths that the host has of an instance's own view.
    fn has(&self, nth: usize) -> Vec<String> {
        let view = ViewId::own(self.instance(nth));
        let entries = self.host.views[&view].keys().map(ToString::to_string);
        entries.filter(|path| !path.starts_with("meta/")).collect()
    }
}

#[tokio::test]
async fn a_damaged_entry_costs_its_host_nothing_but_itself() {
    let mut world = World::new().await;
    world.put(0, "long", &"x".repeat(3_000)).await;
    world.put(0, "short", "1").await;
    world.damage(0, "long").await;
    world.settle().await;
    world.put(1, "x", "2").await;
    world.settle().await;
    assert_eq!(world.has(1), ["x"], "the feed doesn't go on");
    assert_eq!(world.has(0), ["short"]);
    let damaged = ViewId::own(world.instance(0));
    assert!(
        world.host.resync.contains(&damaged),
        "the host takes the view for whole"
    );
    let head = world.executor.store().head().await.unwrap();
    let error = world.views.read(head, damaged).await.unwrap_err().to_string();
    assert!(error.contains("/long"), "{error}");
}
