//! A mirror that is not what the host has.

use moorline_shared::link::body::Item;

use super::*;
use crate::mirror::Batch;

/// Has the mirror hold another value than came, as nothing does that the host says.
fn damage(rig: &Rig, path: &str, held: &[u8]) {
    let revision = rig.mirror.read().applied().unwrap();
    let item = Item {
        path: path.parse().unwrap(),
        entry: Some(entry(revision.n, held)),
    };
    let batch = Batch {
        from: Some(revision),
        to: revision,
        items: vec![item],
        secrets: Default::default(),
    };
    rig.mirror.apply(batch, now()).unwrap();
}

#[test]
fn a_damaged_mirror_is_replaced_when_it_is_compared() {
    run(async {
        let rig = Rig::linked().await;
        damage(&rig, "a", b"onf");
        let cursor = rig.mirror.read().cursor();
        rig.host.order(Order::Compare);
        rig.mirror
            .until(|mirror| {
                matches!(mirror.get("a", now()), Lookup::Found(a) if a.value().bytes() == "one").then_some(())
            })
            .await;
        let healed = rig.host.with(|state| (state.differed, state.snapshots));
        assert_eq!(healed, (1, 2));
        // Whoever watches is told, though no revision has changed.
        let mirror = rig.mirror.read();
        let (change, _) = mirror.next_change(cursor).unwrap().unwrap();
        assert!(change.below(&"a".parse().unwrap()).next().is_some());
    });
}

#[test]
fn a_right_mirror_is_compared_in_silence() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.with(|state| state.secret.insert("b".to_owned()));
        rig.host.change(&[("b", Some(b"new")), ("c/d", Some(b""))]);
        rig.host.order(Order::Compare);
        rig.host.change(&[("a", None)]);
        rig.host.order(Order::Compare);
        // What is said behind it is answered, so that it was taken before.
        rig.mirrored(4).await;
        rig.host.order(Order::Compare);
        rig.host.change(&[("a", Some(b"last"))]);
        rig.mirrored(5).await;
        let said = rig.host.with(|state| (state.differed, state.snapshots));
        assert_eq!(said, (0, 1));
    });
}
