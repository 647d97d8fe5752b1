use std::collections::BTreeMap;
use std::rc::Rc;

use moorline_shared::InstanceId;
use moorline_shared::credential::{Bearer, Credential, MAX_ROLES};
use moorline_shared::id::RoleName;
use moorline_shared::link::body::{self, CredentialDocument, HelloAck};
use moorline_shared::link::session::DEFAULT_LIMITS;
use moorline_shared::link::{KindSet, Moment};
use moorline_shared::secret::{Secret, SecretKey};
use proptest::prelude::*;

use super::{Held, Lookup, Refusal};

fn ack(instance: u8, incarnation: u64, authority: &str) -> HelloAck {
    HelloAck {
        kinds: KindSet::ours(),
        session: 1,
        instance: InstanceId::from_bytes([instance; 16]),
        incarnation,
        authority: authority.to_owned(),
        limits: DEFAULT_LIMITS,
        boottime_ms: 1,
        heartbeat_ms: 10_000,
    }
}

fn session(number: u64, expires_in_ms: u64) -> body::Session {
    body::Session {
        session: "s".to_owned(),
        token: Secret::from(format!("mli_{number}")),
        token_id: number.to_string(),
        key: SecretKey::from([7; 32]),
        expires_in_ms,
    }
}

fn given(role: &str, number: u64, expires_in_ms: u64) -> body::Credential {
    let token = Secret::from(format!("sesame-{number}"));
    let document = CredentialDocument {
        kind: "bearer".to_owned(),
        document: Credential::Bearer(Bearer { token }).document(),
        expires_in_ms,
        expires_at_ms: 1_000,
    };
    body::Credential {
        role: role.to_owned(),
        current: Some(document),
    }
}

fn none(role: &str) -> body::Credential {
    body::Credential {
        role: role.to_owned(),
        current: None,
    }
}

fn name(role: &str) -> RoleName {
    role.parse().unwrap()
}

fn token(held: &Held, role: &str, now: u64) -> Option<String> {
    let given = held.role(&name(role), Moment(now))?;
    match &given.credential {
        Credential::Bearer(bearer) => Some(bearer.token.expose().to_owned()),
        Credential::Aws(_) => panic!("nobody gave that"),
    }
}

/// What happens to an agent.
#[derive(Clone, Copy, Debug)]
enum Event {
    Hello {
        instance: u8,
        incarnation: u64,
        authority: bool,
    },
    Session {
        expires_in_ms: u64,
    },
    SessionOver,
    Given {
        role: u8,
        expires_in_ms: u64,
    },
    Withdrawn {
        role: u8,
    },
    Broken {
        role: u8,
    },
    Pass {
        ms: u64,
    },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        1 => (0..2u8, 1..3u64, any::<bool>()).prop_map(|(instance, incarnation, authority)| Event::Hello { instance, incarnation, authority }),
        2 => (0..100u64).prop_map(|expires_in_ms| Event::Session { expires_in_ms }),
        1 => Just(Event::SessionOver),
        4 => (0..4u8, 0..100u64).prop_map(|(role, expires_in_ms)| Event::Given { role, expires_in_ms }),
        1 => (0..4u8).prop_map(|role| Event::Withdrawn { role }),
        1 => (0..4u8).prop_map(|role| Event::Broken { role }),
        4 => (0..60u64).prop_map(|ms| Event::Pass { ms }),
    ];
    prop::collection::vec(event, 1..60)
}

/// What a reader must find: the last thing given in this life, until its deadline.
#[derive(Default)]
struct Expected {
    life: Option<(u8, u64, bool)>,
    session: Option<(u64, u64)>,
    roles: BTreeMap<u8, (u64, u64)>,
}

impl Expected {
    fn at(&self, role: u8, now: u64) -> Option<String> {
        let (number, deadline) = self.roles.get(&role)?;
        (now < *deadline).then(|| format!("sesame-{number}"))
    }
}

fn play(held: &mut Held, expected: &mut Expected, event: Event, number: u64, now: &mut u64) {
    match event {
        Event::Hello {
            instance,
            incarnation,
            authority,
        } => {
            held.begin(&ack(instance, incarnation, if authority { "a" } else { "b" }));
            held.told();
            let life = Some((instance, incarnation, authority));
            if expected.life != life {
                *expected = Expected {
                    life,
                    ..Expected::default()
                };
            }
        }
        Event::Session { expires_in_ms } => {
            held.take_session(session(number, expires_in_ms), Moment(*now));
            expected.session = Some((number, *now + expires_in_ms));
        }
        Event::SessionOver => {
            held.take_session_back();
            expected.session = None;
        }
        Event::Given { role, expires_in_ms } => {
            held.take_credential(&given(&format!("r{role}"), number, expires_in_ms), Moment(*now))
                .unwrap();
            expected.roles.insert(role, (number, *now + expires_in_ms));
        }
        Event::Withdrawn { role } => {
            held.take_credential(&none(&format!("r{role}")), Moment(*now))
                .unwrap();
            expected.roles.remove(&role);
        }
        Event::Broken { role } => {
            let mut broken = given(&format!("r{role}"), number, 1_000);
            broken.current.as_mut().unwrap().document = Secret::from("{".to_owned());
            held.take_credential(&broken, Moment(*now)).unwrap_err();
        }
        Event::Pass { ms } => *now += ms,
    }
}

proptest! {
    #[test]
    fn a_reader_finds_the_last_one_given_whole_until_its_deadline_and_never_after(events in events()) {
        let (mut held, mut expected, mut now) = (Held::default(), Expected::default(), 0);
        held.told();
        for (number, event) in (0..).zip(events) {
            play(&mut held, &mut expected, event, number, &mut now);
            for role in 0..4 {
                prop_assert_eq!(token(&held, &format!("r{role}"), now), expected.at(role, now));
            }
            let listed: Vec<_> = held.roles(Moment(now)).map(|given| given.role.to_string()).collect();
            let good: Vec<_> = (0..4).filter(|role| expected.at(*role, now).is_some()).map(|role| format!("r{role}")).collect();
            prop_assert_eq!(listed, good);
            let session = held.session(Moment(now)).map(|token| token.token_id.clone());
            let good = expected.session.filter(|(_, deadline)| now < *deadline);
            prop_assert_eq!(session, good.map(|(number, _)| number.to_string()));
        }
    }
}

#[test]
fn a_lost_link_costs_nothing_and_another_life_everything() {
    let mut held = Held::default();
    held.begin(&ack(1, 7, "here"));
    held.take_session(session(1, 100), Moment(0));
    held.take_credential(&given("r", 1, 100), Moment(0)).unwrap();
    held.begin(&ack(1, 7, "here"));
    assert!(held.session(Moment(99)).is_some() && token(&held, "r", 99).is_some());
    for other in [ack(1, 8, "here"), ack(1, 7, "there"), ack(2, 7, "here")] {
        held.begin(&ack(1, 7, "here"));
        held.take_session(session(1, 100), Moment(0));
        held.take_credential(&given("r", 1, 100), Moment(0)).unwrap();
        held.begin(&other);
        assert!(
            held.session(Moment(1)).is_none() && held.roles(Moment(1)).count() == 0,
            "{other:?}"
        );
    }
}

#[test]
fn a_guest_whose_calendar_is_off_finds_what_is_good() {
    let mut held = Held::default();
    // The document's date is of 1970 here; only what remains counts.
    held.take_credential(&given("r", 1, 60_000), Moment(5)).unwrap();
    assert!(token(&held, "r", 60_004).is_some() && token(&held, "r", 60_005).is_none());
}

#[test]
fn what_is_on_its_way_is_told_from_what_there_is_not() {
    let (mut held, now) = (Held::default(), Moment(0));
    let look = |held: &Held, role: &str| held.look(&name(role), now);
    assert!(matches!(look(&held, "r"), Lookup::Awaited) && held.is_incomplete(now));
    held.begin(&ack(1, 7, "here"));
    held.take_credential(&none("r"), now).unwrap();
    held.told();
    assert!(matches!(look(&held, "r"), Lookup::Awaited) && held.is_incomplete(now));
    assert!(matches!(look(&held, "other"), Lookup::Unknown));
    held.take_credential(&given("r", 1, 10), now).unwrap();
    assert!(matches!(look(&held, "r"), Lookup::Given(_)) && !held.is_incomplete(now));
    // Those that have expired are late, not gone.
    let late = Moment(10);
    assert!(matches!(held.look(&name("r"), late), Lookup::Awaited) && held.is_incomplete(late));
    held.take_credential(&none("r"), now).unwrap();
    assert!(matches!(look(&held, "r"), Lookup::Unknown) && !held.is_incomplete(late));
}

#[test]
fn a_host_that_was_restarted_and_has_none_yet_takes_none_away() {
    let mut held = Held::default();
    held.begin(&ack(1, 7, "here"));
    held.take_credential(&given("r", 1, 100), Moment(0)).unwrap();
    held.told();
    held.begin(&ack(1, 7, "here"));
    held.take_credential(&none("r"), Moment(1)).unwrap();
    held.told();
    assert_eq!(token(&held, "r", 2).as_deref(), Some("sesame-1"));
    held.take_credential(&none("r"), Moment(3)).unwrap();
    assert_eq!(token(&held, "r", 4), None);
}

#[test]
fn there_are_never_more_roles_than_an_instance_has() {
    let mut held = Held::default();
    for n in 0..MAX_ROLES as u64 {
        held.take_credential(&given(&format!("r{n}"), n, 10), Moment(0))
            .unwrap();
    }
    let refused = held.take_credential(&given("more", 1, 10), Moment(0));
    assert_eq!(refused, Err(Refusal::TooMany));
    // Those that ran out make room.
    held.take_credential(&given("more", 1, 10), Moment(10)).unwrap();
    assert_eq!(token(&held, "more", 11).as_deref(), Some("sesame-1"));
}

#[test]
fn one_who_has_read_keeps_what_was_whole() {
    let mut held = Held::default();
    held.take_credential(&given("r", 1, 10), Moment(0)).unwrap();
    let before = Rc::clone(held.role(&name("r"), Moment(0)).unwrap());
    held.take_credential(&given("r", 2, 10), Moment(0)).unwrap();
    let expected = Credential::Bearer(Bearer {
        token: Secret::from("sesame-1".to_owned()),
    });
    assert_eq!(before.credential, expected);
}

#[test]
fn nothing_held_is_shown() {
    let mut held = Held::default();
    held.take_session(session(1, 10), Moment(0));
    held.take_credential(&given("r", 1, 10), Moment(0)).unwrap();
    let shown = format!("{held:?}");
    assert!(!shown.contains("sesame") && !shown.contains("mli_"), "{shown}");
}
