//! What the host says unasked.

use super::*;
use crate::link::body::{Credential, CredentialDocument, LinkKey, Session, SessionOver};
use crate::link::frame::MAX_BODY;
use crate::link::session::Told;
use crate::secret::{Secret, SecretKey};

fn session(token: usize) -> Session {
    Session {
        session: "s-1".to_owned(),
        token: Secret::from("x".repeat(token)),
        token_id: "t-1".to_owned(),
        key: SecretKey::from([1; 32]),
        expires_in_ms: 1,
    }
}

fn credential(document: usize) -> Credential {
    Credential {
        role: "backup".to_owned(),
        current: Some(CredentialDocument {
            kind: "aws".to_owned(),
            document: Secret::from("x".repeat(document)),
            expires_in_ms: u64::MAX,
            expires_at_ms: u64::MAX,
        }),
    }
}

fn link_key() -> LinkKey {
    LinkKey {
        incarnation: 3,
        key: SecretKey::from([3; 32]),
    }
}

fn over() -> SessionOver {
    SessionOver {
        reason: "it was ended".to_owned(),
    }
}

#[test]
fn secrets_arrive_as_they_were_told() {
    let mut pair = Pair::open(DEFAULT_LIMITS);
    assert_eq!(pair.host.session(&session(500), pair.now), Told::Queued);
    assert_eq!(pair.host.credential(&credential(500), pair.now), Told::Queued);
    assert_eq!(pair.host.link_key(&link_key(), pair.now), Told::Queued);
    assert_eq!(pair.host.session_over(&over(), pair.now), Told::Queued);
    pair.settle(7);
    let told = [
        GuestEvent::Session(session(500)),
        GuestEvent::Credential(credential(500)),
        GuestEvent::LinkKey(link_key()),
        GuestEvent::SessionOver(over()),
    ];
    assert_eq!(pair.heard, told);
}

#[test]
fn what_fits_a_frame_goes_out_and_no_more() {
    let mut pair = Pair::open(DEFAULT_LIMITS);
    let most = MAX_BODY - 256 - "s-1".len() - "t-1".len();
    assert_eq!(pair.host.session(&session(most), pair.now), Told::Queued);
    assert_eq!(pair.host.session(&session(most + 1), pair.now), Told::TooLong);
    let most = MAX_BODY - 256 - "backup".len() - "aws".len();
    assert_eq!(pair.host.credential(&credential(most), pair.now), Told::Queued);
    assert_eq!(
        pair.host.credential(&credential(most + 1), pair.now),
        Told::TooLong
    );
    pair.settle(usize::MAX);
    assert_eq!(pair.heard.len(), 2);
}

#[test]
fn a_guest_of_an_older_build_is_given_nothing() {
    let now = Moment(1);
    let mut host = Host::new(DEFAULT_LIMITS, [7; 16], now);
    assert_eq!(host.link_key(&link_key(), now), Told::NotUnderstood);
    let kinds = KindSet::of(&[Kind::HelloAck, Kind::Standing]);
    host.welcome(&Hello { kinds, ..hello() }, &ack(DEFAULT_LIMITS), now);
    assert_eq!(host.session(&session(1), now), Told::NotUnderstood);
    assert_eq!(host.session_over(&over(), now), Told::NotUnderstood);
    assert_eq!(host.credential(&credential(1), now), Told::NotUnderstood);
    assert_eq!(host.link_key(&link_key(), now), Told::NotUnderstood);
}
