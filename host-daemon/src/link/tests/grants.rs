//! What guests are given, through real sockets.

use std::sync::Arc;

use moorline_shared::Timestamp;
use moorline_shared::credential::{Bearer, Credential};
use moorline_shared::link::Moment;
use moorline_shared::link::session::GuestEvent;
use moorline_shared::secret::{Secret, SecretKey};
use tokio::sync::mpsc;

use super::{Agent, World, id};
use crate::link::{Grant, LifeId, Notice, RoleGrant, SessionGrant, Speaker};

fn session(number: u8, lasts_ms: u64) -> Grant {
    Grant::Session(Arc::new(SessionGrant {
        session: "s-1".to_owned(),
        token: Secret::from(format!("mli_{number}")),
        token_id: number.to_string(),
        sealed_by: 1,
        key: SecretKey::from([number; 32]),
        deadline: Moment(crate::link::now().0 + lasts_ms),
    }))
}

fn role(name: &str, token: &str) -> Grant {
    let token = Secret::from(token.to_owned());
    let grant = RoleGrant {
        credential: Credential::Bearer(Bearer { token }),
        deadline: Moment(crate::link::now().0 + 60_000),
        expires_at: Timestamp::from_millis(5).unwrap(),
    };
    Grant::Role(name.parse().unwrap(), Arc::new(grant))
}

fn announced(name: &str) -> Grant {
    Grant::Announced(name.parse().unwrap())
}

fn withdrawn(name: &str) -> Grant {
    Grant::Withdrawn(name.parse().unwrap())
}

/// What a guest was given next: a token's id, or a role and what it has.
fn given(agent: &mut Agent) -> (String, Option<String>) {
    match agent.next() {
        GuestEvent::Session(session) => ("session".to_owned(), Some(session.token_id)),
        GuestEvent::Credential(credential) => {
            let document = credential.current.map(|current| {
                assert!((1..=60_000).contains(&current.expires_in_ms));
                current.document.expose().to_owned()
            });
            (credential.role, document)
        }
        other => panic!("{other:?} came instead of something given"),
    }
}

fn has(name: &str, token: &str) -> (String, Option<String>) {
    (name.to_owned(), Some(format!("{{\"token\":\"{token}\"}}")))
}

fn has_none(name: &str) -> (String, Option<String>) {
    (name.to_owned(), None)
}

#[test]
fn a_guest_has_all_of_it_right_behind_its_welcome_and_what_comes_later_at_once() {
    let world = World::new();
    world.add(1, &[("a", "one")]);
    for grant in [session(1, 60_000), role("x", "x1"), announced("y")] {
        world.handle().grant(id(1), 1, grant);
    }
    let mut agent = Agent::dial(&world.socket(1));
    agent.ready();
    assert_eq!(given(&mut agent), ("session".to_owned(), Some("1".to_owned())));
    assert_eq!(
        [given(&mut agent), given(&mut agent)],
        [has("x", "x1"), has_none("y")]
    );
    agent.mirror();
    world.handle().grant(id(1), 1, role("y", "y1"));
    assert_eq!(given(&mut agent), has("y", "y1"));
    world.handle().grant(id(1), 1, session(2, 60_000));
    assert_eq!(given(&mut agent), ("session".to_owned(), Some("2".to_owned())));
    world.handle().grant(id(1), 1, withdrawn("x"));
    assert_eq!(given(&mut agent), has_none("x"));
}

#[test]
fn nobody_gets_what_is_anothers_or_of_another_life_or_has_run_out() {
    let world = World::new();
    world.add(1, &[("a", "one")]);
    world.add(2, &[("a", "two")]);
    world.handle().grant(id(1), 1, role("x", "of-one"));
    world.handle().grant(id(2), 2, role("x", "of-a-later-life"));
    world.handle().grant(id(2), 1, session(1, 0));
    world.handle().grant(id(2), 1, role("y", "y"));
    let mut other = Agent::dial(&world.socket(2));
    other.ready();
    assert_eq!(given(&mut other), has("y", "y"));
    other.mirror();
    world.begin(2, 2);
    let mut anew = Agent::dial(&world.socket(2));
    anew.ready();
    assert_eq!(
        anew.mirror().items.len(),
        1,
        "nothing was given before the data came"
    );
}

#[test]
fn what_was_taken_away_meanwhile_is_told_behind_what_there_is() {
    let world = World::new();
    world.add(1, &[("a", "one")]);
    world.handle().grant(id(1), 1, role("x", "x1"));
    world.handle().grant(id(1), 1, withdrawn("x"));
    let mut agent = Agent::dial(&world.socket(1));
    agent.ready();
    assert_eq!(given(&mut agent), has_none("x"));
    agent.mirror();
    let mut again = Agent::dial(&world.socket(1));
    again.ready();
    assert_eq!(again.mirror().items.len(), 1, "it is told once");
}

#[test]
fn lives_and_greetings_are_told_in_their_order() {
    let world = World::new();
    let (sender, mut notices) = mpsc::unbounded_channel();
    world.handle().notify(&sender);
    world.add(1, &[("a", "one")]);
    let mut agent = Agent::dial(&world.socket(1));
    agent.hello.vmgenid = Some([9; 16]);
    agent.ready();
    world.end(1, 1);
    let life = LifeId {
        instance: id(1),
        incarnation: 1,
    };
    let expected = [
        Notice::Began(life),
        Notice::Greeted {
            life,
            generation: Some([9; 16]),
            speaker: Speaker::New,
        },
        Notice::Ended(life),
    ];
    assert_eq!(expected.map(Some), [(); 3].map(|()| notices.blocking_recv()));
}
