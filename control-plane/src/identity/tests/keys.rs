//! Keys from staging to their end, and what becomes of tokens meanwhile.

use super::{World, caller, kind_of};
use crate::identity::keys::make;
use crate::identity::operations::{IfNeeded, Op, Reply};
use crate::identity::token::{OpenError, Stage};
use crate::identity::tokens::TokenRefusal;
use crate::model::{Caller, Role};
use crate::services::provider;

fn administrator() -> Caller {
    caller("root", Role::Administrator)
}

fn destroy(key: u32, world: &World, if_needed: IfNeeded) -> Op {
    let now = world.executor.now();
    Op::DestroyTokenKey {
        key,
        needed_until: world.tokens.sessions().last_end_of_those_begun_before(now),
        if_needed,
    }
}

async fn stage(world: &World, key: u32) {
    let sealed = make(&world.master, key).unwrap();
    let staged = world
        .run(Op::StageTokenKey { key, sealed }, administrator())
        .await;
    staged.unwrap();
}

#[tokio::test]
async fn tokens_survive_a_promotion_and_fall_with_their_key() {
    let world = World::new().await;
    let ann = world.session("ann").await;
    let old = world.access(&ann);
    stage(&world, 2).await;
    assert_eq!(world.access(&ann).key, 1, "a staged key seals nothing");
    world
        .run(Op::PromoteTokenKey { key: 2 }, administrator())
        .await
        .unwrap();
    let new = world.access(&ann);
    assert_eq!((old.key, new.key), (1, 2));
    assert!(world.check(&old).is_ok() && world.check(&new).is_ok());

    let refused = world
        .run(destroy(1, &world, IfNeeded::Keep), administrator())
        .await;
    assert_eq!(kind_of(refused), "key-needed");
    assert!(world.check(&old).is_ok());
    world
        .run(destroy(1, &world, IfNeeded::Destroy), administrator())
        .await
        .unwrap();
    assert_eq!(
        world.check(&old),
        Err(TokenRefusal::Open(OpenError::UnknownKey(1)))
    );
    assert!(world.check(&new).is_ok());
    let world = world.restarted().await;
    assert!(world.check(&old).is_err() && world.check(&new).is_ok());
    world.replay().await;
}

#[tokio::test]
async fn a_key_goes_one_way_and_its_id_is_never_used_again() {
    let world = World::new().await;
    stage(&world, 2).await;
    for (op, kind) in [
        (Op::RetireTokenKey { key: 1 }, "key-stage"),
        (destroy(2, &world, IfNeeded::Destroy), "key-stage"),
        (Op::PromoteTokenKey { key: 1 }, "key-stage"),
        (Op::PromoteTokenKey { key: 9 }, "key-not-found"),
    ] {
        assert_eq!(kind_of(world.run(op, administrator()).await), kind);
    }
    for op in [Op::RetireTokenKey { key: 2 }, destroy(2, &world, IfNeeded::Keep)] {
        world.run(op, administrator()).await.unwrap();
    }
    let sealed = make(&world.master, 2).unwrap();
    let twice = world
        .run(Op::StageTokenKey { key: 2, sealed }, administrator())
        .await;
    assert_eq!(kind_of(twice), "key-stage");
    let denied = world
        .run(Op::PromoteTokenKey { key: 1 }, caller("ann", Role::Member))
        .await;
    assert_eq!(kind_of(denied), "access-denied");
    let Reply::Keys(keys) = world
        .run(Op::DescribeTokenKeys {}, provider("control"))
        .await
        .unwrap()
    else {
        panic!("keys are listed");
    };
    let stages: Vec<_> = keys.iter().map(|key| (key.id, key.stage())).collect();
    assert_eq!(stages, [(1, Some(Stage::Primary)), (2, None)]);
}

#[tokio::test]
async fn a_signing_key_is_the_same_each_time_and_another_for_each_token() {
    let world = World::new().await;
    let ann = world.session("ann").await;
    let (one, two) = (world.access(&ann), world.access(&ann));
    let key = |minted: &crate::identity::tokens::Minted| world.tokens.signing_key(&minted.id, minted.key);
    assert!(key(&one).is_some());
    assert_eq!(key(&one), key(&one));
    assert_ne!(key(&one), key(&two));
    assert_eq!(world.tokens.signing_key(&one.id, 9), None);
}
