//! Sessions from their beginning to their end.

use super::{World, caller, kind_of, new_session};
use crate::identity::operations::{NewSession, Op, Reply};
use crate::identity::records::{Revoked, SessionPurpose};
use crate::identity::rules::sessions::{MAX_PROGRAMS, MAX_SESSIONS};
use crate::identity::sessions::Standing;
use crate::identity::token::{Grant, Kind};
use crate::identity::tokens::TokenRefusal;
use crate::model::{Caller, Role};
use crate::services::provider;
use crate::store::Range;

fn end(session: &crate::identity::records::SessionRecord) -> Op {
    Op::EndSession {
        principal: session.principal.clone(),
        session: session.id,
    }
}

#[tokio::test]
async fn a_session_that_was_ended_is_dead_for_all_of_its_tokens_and_no_others() {
    let world = World::new().await;
    let (ann, other) = (world.session("ann").await, world.session("ann").await);
    let (token, another) = (world.access(&ann), world.access(&other));
    assert_eq!(world.check(&token).unwrap().to_string(), "user:ann");
    world.run(end(&ann.0), caller("ann", Role::Member)).await.unwrap();
    assert_eq!(world.check(&token), Err(TokenRefusal::Session(Standing::Unknown)));
    assert!(world.check(&another).is_ok());
    let again = world.run(end(&ann.0), caller("ann", Role::Member)).await;
    assert_eq!(kind_of(again), "session-not-found");
    world.replay().await;
}

#[tokio::test]
async fn only_its_owner_and_administrators_of_its_account_end_a_session_or_see_it() {
    let world = World::new().await;
    let ann = world.session("ann").await;
    let elsewhere = Caller {
        account: "other".parse().unwrap(),
        ..caller("root", Role::Administrator)
    };
    for stranger in [caller("bob", Role::Member), elsewhere] {
        let refused = world.run(end(&ann.0), stranger).await;
        assert_eq!(kind_of(refused), "session-not-found");
    }
    let principal = ann.0.principal.clone();
    let describe = Op::DescribeSessions { principal };
    let refused = world.run(describe.clone(), caller("bob", Role::Member)).await;
    assert_eq!(kind_of(refused), "access-denied");
    let seen = world.run(describe, caller("ann", Role::Member)).await.unwrap();
    assert_eq!(seen, Reply::Sessions(vec![ann.0.clone()]));
    assert_eq!(
        kind_of(
            world
                .run(
                    Op::CreateSession(new_session("bob")),
                    caller("bob", Role::Administrator)
                )
                .await
        ),
        "access-denied"
    );
    world
        .run(end(&ann.0), caller("root", Role::Administrator))
        .await
        .unwrap();
}

#[tokio::test]
async fn sessions_and_keys_outlive_the_process() {
    let world = World::new().await;
    let (kept, ended) = (world.session("ann").await, world.session("ann").await);
    let (token, dead) = (world.access(&kept), world.access(&ended));
    world
        .run(end(&ended.0), caller("ann", Role::Member))
        .await
        .unwrap();
    let world = world.restarted().await;
    assert!(world.check(&token).is_ok());
    assert!(world.check(&dead).is_err());
    assert_eq!(world.tokens.sessions().count(), 1);
    world.replay().await;
}

#[tokio::test]
async fn a_token_ends_with_its_session_and_its_grant() {
    let world = World::new().await;
    let (session, grant) = world.session("ann").await;
    let (sessions, now) = (world.tokens.sessions(), world.executor.now());
    assert_eq!(sessions.standing(&session.id, now), Standing::Stands);
    assert_eq!(
        sessions.standing(&session.id, session.expires_at),
        Standing::Expired
    );
    let other = Grant {
        generation: 1,
        ..grant
    };
    assert_eq!(
        sessions.standing_of_grant(&session.id, other, now),
        Standing::GrantOver
    );
    let long = world
        .tokens
        .mint(Kind::Access, &session, grant, None, u32::MAX, now)
        .unwrap();
    assert_eq!(long.expires_at, session.expires_at);
}

#[tokio::test]
async fn whoever_logs_in_often_ends_their_login_of_longest_ago() {
    let world = World::new().await;
    let first = world.session("ann").await;
    let program = Op::CreateSession(NewSession {
        purpose: SessionPurpose::Program { name: "ci".into() },
        ..new_session("ann")
    });
    world.run(program, provider("identity")).await.unwrap();
    let second = world.session("ann").await;
    for _ in 3..MAX_SESSIONS {
        world.session("ann").await;
    }
    let [oldest, next] = [&first, &second].map(|session| world.access(session));
    assert!(world.check(&oldest).is_ok());
    let last = world.session("ann").await;
    assert!(world.check(&oldest).is_err(), "it made room");
    assert!(world.check(&next).is_ok() && world.check(&world.access(&last)).is_ok());
    assert_eq!(world.tokens.sessions().count(), MAX_SESSIONS);
    world.session("ann").await;
    assert!(world.check(&next).is_err(), "and no program's session did");
}

#[tokio::test]
async fn programs_leave_room_to_log_in() {
    let world = World::new().await;
    let program = Op::CreateSession(NewSession {
        purpose: SessionPurpose::Program { name: "ci".into() },
        ..new_session("ann")
    });
    for _ in 0..MAX_PROGRAMS {
        world.run(program.clone(), provider("identity")).await.unwrap();
    }
    let refused = world.run(program, provider("identity")).await;
    assert_eq!(kind_of(refused), "too-many-tokens");
    world.session("ann").await;
}

#[tokio::test]
async fn sessions_that_are_over_take_no_room() {
    let world = World::new().await;
    let standing = world.session("ann").await;
    let short = Op::CreateSession(NewSession {
        lifetime: 0,
        ..new_session("ann")
    });
    for _ in 1..MAX_SESSIONS {
        world.run(short.clone(), provider("identity")).await.unwrap();
    }
    world.session("ann").await;
    assert!(world.check(&world.access(&standing)).is_ok());
    world.replay().await;
}

#[tokio::test]
async fn what_was_revoked_is_kept_until_no_token_of_it_is_left() {
    let world = World::new().await;
    let short = NewSession {
        lifetime: 1,
        ..new_session("ann")
    };
    let Reply::Session { session, .. } = world
        .run(Op::CreateSession(short), provider("identity"))
        .await
        .unwrap()
    else {
        panic!("no session");
    };
    world
        .run(end(&session), caller("ann", Role::Member))
        .await
        .unwrap();
    let rows = async || {
        let store = world.executor.store();
        let head = store.head().await.unwrap();
        let page = store.range(head, &Range::prefix("revocation/")).await.unwrap();
        page.entries.len()
    };
    assert_eq!(rows().await, 1);
    let forget = Op::ForgetRevocation {
        revoked: Revoked::Session {
            principal: session.principal.clone(),
            session: session.id,
        },
    };
    assert_eq!(
        kind_of(
            world
                .run(forget.clone(), caller("root", Role::Administrator))
                .await
        ),
        "access-denied"
    );
    let until = session.expires_at;
    while rows().await > 0 {
        let before = world.executor.now();
        world.run(forget.clone(), provider("outbox")).await.unwrap();
        assert!(
            rows().await == 1 || world.executor.now() >= until,
            "forgotten at {before}, before {until}"
        );
    }
    world.replay().await;
}

#[tokio::test]
async fn its_removal_is_planned_for_then() {
    let world = World::new().await;
    let (session, _) = world.session("ann").await;
    world
        .run(end(&session), caller("ann", Role::Member))
        .await
        .unwrap();
    let store = world.executor.store();
    let planned = store
        .range(store.head().await.unwrap(), &Range::prefix("outbox/"))
        .await
        .unwrap();
    let due = |(key, kept): &(crate::store::Key, crate::store::Versioned)| {
        let op = String::from_utf8_lossy(&kept.value).into_owned();
        op.contains("ForgetRevocation").then(|| key.to_string())
    };
    let due: Vec<_> = planned.entries.iter().filter_map(due).collect();
    let at = format!("outbox/{:016x}/", session.expires_at.millis());
    assert!(
        due.len() == 1 && due[0].starts_with(&at),
        "{due:?} are due, and not at {at}"
    );
}
