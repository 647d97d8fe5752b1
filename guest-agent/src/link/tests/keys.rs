//! The key that a guest proves itself by.

use moorline_shared::link::body::Hello;
use moorline_shared::secret::SecretKey;

use super::value;
use crate::mirror::Lookup;
use crate::platform::now;
use crate::test_host::{Lock, OTHER, Order, Rig, entry, run};

/// How a host is locked that believes the first who comes, and gives it this key.
fn unclaimed(byte: u8) -> Lock {
    Lock::Unclaimed(SecretKey::from([byte; 32]))
}

/// An agent that its host has given a key, and `a`.
async fn given_a_key(a: &[u8]) -> Rig {
    let mut rig = Rig::without_host(crate::local::Settings::default()).await;
    rig.host.with(|state| state.lock = Some(unclaimed(1)));
    rig.host.change(&[("a", Some(a))]);
    rig.start_host();
    rig.mirrored(2).await;
    rig
}

#[test]
fn the_guest_proves_itself_by_the_key_that_it_was_given() {
    run(async {
        let rig = given_a_key(b"one").await;
        rig.host.order(Order::Cut);
        rig.host.change(&[("a", Some(b"two"))]);
        rig.mirrored(3).await;
        // The machine is restored from a snapshot: its host knows another key.
        rig.host.with(|state| {
            state.incarnation = 8;
            state.lock = Some(unclaimed(2));
        });
        rig.host.order(Order::Cut);
        rig.host.change(&[("a", Some(b"three"))]);
        rig.mirrored(4).await;
        let proofs = rig.host.with(|state| {
            state
                .hellos
                .iter()
                .map(|hello| hello.proof.is_some())
                .collect::<Vec<_>>()
        });
        assert_eq!(proofs, [false, true, true, false]);
        assert_eq!(rig.line.identity().unwrap().incarnation, 8);
    });
}

/// Its host knows it by another key, and the number of the life is the same by chance.
#[test]
fn a_copy_of_a_machine_is_given_the_key_and_the_data_of_its_own_instance() {
    run(async {
        let rig = given_a_key(b"the first's").await;
        rig.host.with(|state| {
            state.instance = OTHER;
            state.own = [("b".parse().unwrap(), entry(2, b"its own"))].into();
            state.lock = Some(unclaimed(2));
        });
        rig.host.order(Order::Cut);
        rig.mirror
            .until(|mirror| matches!(mirror.get("b", now()), Lookup::Found(_)).then_some(()))
            .await;
        assert_eq!(value(&rig, "a"), None, "the first's entry is mixed in");
        // It has the key as well, and needs it on the next connection.
        rig.host.order(Order::Cut);
        rig.host.change(&[("b", Some(b"goes on"))]);
        rig.mirrored(3).await;
        let said: Vec<_> = rig.host.with(|state| {
            let said = |hello: &Hello| (hello.proof.is_some(), hello.incarnation);
            state.hellos.iter().map(said).collect()
        });
        assert_eq!(
            said,
            [(false, None), (true, Some(7)), (false, None), (true, Some(7))]
        );
    });
}
