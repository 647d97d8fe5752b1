//! When certificates are renewed, and how, against a control plane that answers, refuses and hangs up.

use std::time::Duration;

use moorline_client::{Client, Endpoint};
use moorline_shared::Timestamp;
use tempfile::TempDir;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::tests::{Answer, EXPIRED, GOOD, Maker, Plane, id};
use super::super::{HostIdentity, Present};
use super::{Renewal, due, wait_after};
use crate::identity::files::Files;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The renewal of a host whose client shows what it has, and the folder of its state.
fn renewal(plane: &Plane, present: Present) -> (Renewal, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let files = Files::of(folder.path());
    files.make().unwrap();
    let endpoint = Endpoint::without_token(plane.url.parse().unwrap()).trusting(plane.trust());
    let renewal = Renewal {
        host: id("h1"),
        client: Client::new(endpoint.identified(present.shown())).unwrap(),
        identity: HostIdentity::new(present),
        files,
    };
    (renewal, folder)
}

fn at(date: &str) -> Timestamp {
    format!("{date}T00:00:00Z").parse().unwrap()
}

#[test]
fn a_certificate_is_renewed_at_a_third_of_its_life_or_a_little_earlier() {
    let month = Maker::new().present("h1", [(2026, 1, 1), (2026, 1, 31)]);
    assert_eq!(due(&month, 0.0), at("2026-01-11"));
    assert_eq!(due(&month, 1.0), at("2026-01-10"));
    for out_of_bounds in [-1.0, 2.0] {
        let due = due(&month, out_of_bounds);
        assert!((at("2026-01-10")..=at("2026-01-11")).contains(&due), "{due}");
    }
}

#[tokio::test]
async fn whose_answer_is_lost_asks_again_with_the_same_key() {
    let mut plane = Plane::new(&[Answer::Lost]).await;
    let (renewal, folder) = renewal(&plane, plane.maker.present("h1", GOOD));
    let first = renewal.identity.present();
    assert!(renewal.renew_once().await.is_err());
    assert_eq!(renewal.identity.present().key_id(), first.key_id());
    renewal.renew_once().await.unwrap();

    let (lost, heard) = (
        plane.asked.recv().await.unwrap(),
        plane.asked.recv().await.unwrap(),
    );
    assert_eq!(lost.path, "/v1/hosts/h1/certificate");
    assert_eq!(lost.key, heard.key);
    assert_eq!(heard.shown.as_ref(), Some(&first.certificate));
    let next = renewal.identity.present();
    assert_ne!(next.key_id(), first.key_id());
    assert_eq!(renewal.files.present().unwrap().key_id(), next.key_id());
    assert!(!folder.path().join("identity/next-key.pem").exists());

    renewal.renew_once().await.unwrap();
    let after = plane.asked.recv().await.unwrap();
    assert_eq!(after.shown.as_ref(), Some(&next.certificate));
    assert_ne!(after.key, heard.key);
}

#[tokio::test]
async fn what_is_of_no_use_replaces_nothing() {
    let plane = Plane::new(&[Answer::OfAnotherHost]).await;
    let (renewal, _folder) = renewal(&plane, plane.maker.present("h1", GOOD));
    let before = renewal.identity.present();
    assert!(renewal.renew_once().await.is_err());
    assert_eq!(renewal.identity.present().key_id(), before.key_id());
    assert!(renewal.files.present().is_err());
}

#[tokio::test]
async fn an_expired_certificate_is_renewed_at_once() {
    let mut plane = Plane::new(&[]).await;
    let (mut renewal, _folder) = renewal(&plane, plane.maker.present("h1", GOOD));
    renewal.identity = HostIdentity::new(plane.maker.present("h1", EXPIRED));
    let (files, cancel) = (renewal.files.clone(), CancellationToken::new());
    let asked = async {
        plane.asked.recv().await.unwrap();
        while files.present().is_err() {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    timeout(PATIENCE, async {
        tokio::join!(renewal.run(cancel.clone()), asked)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_refusal_is_asked_again_after_minutes_and_silence_after_seconds() {
    let plane = Plane::new(&[Answer::Refused(403), Answer::Refused(503)]).await;
    let (renewal, _folder) = renewal(&plane, plane.maker.present("h1", GOOD));
    let seconds = |from: f64, until: f64| Duration::from_secs_f64(from)..=Duration::from_secs_f64(until);
    let refused = renewal.renew_once().await.unwrap_err();
    for part in [0.0, 0.5, 1.0] {
        assert!(seconds(30.0, 300.0).contains(&wait_after(&refused, 0, part)));
    }
    let busy = renewal.renew_once().await.unwrap_err();
    assert!(seconds(0.1, 1.0).contains(&wait_after(&busy, 0, 0.0)));
    assert_eq!(wait_after(&busy, 3, 1.0), Duration::from_secs(8));
    assert_eq!(wait_after(&busy, u32::MAX, 1.0), Duration::from_mins(5));
}
