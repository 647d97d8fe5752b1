//! Machines made hosts, against a control plane that answers, hangs up and is another one.

use std::path::Path;

use moorline_shared::Digest;
use moorline_shared::enrolment::EnrolmentToken;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::super::tests::{Answer, Plane, enrolled, id};
use super::{EnrolError, Former, enrol};
use crate::identity::files::Files;
use crate::vm::record::Records;

fn token(plane: &Plane, host: &str) -> EnrolmentToken {
    let authority = CertificateDer::from_pem_slice(plane.maker.pem().as_bytes()).unwrap();
    EnrolmentToken {
        host: id(host),
        url: plane.url.clone(),
        authority: Digest::of(&authority),
        secret: [7; 32].into(),
    }
}

fn host_of(state: &Path) -> Option<String> {
    let present = Files::of(state).present().ok()?;
    Some(present.host().to_string())
}

/// Whether nothing of an enrolment is left beside the identity.
fn is_tidy(state: &Path) -> bool {
    !state.join("identity.next").exists() && !state.join("identity/next-key.pem").exists()
}

#[tokio::test]
async fn a_machine_becomes_a_host_also_if_the_answer_is_lost_once() {
    let (folder, mut plane) = (tempfile::tempdir().unwrap(), Plane::new(&[Answer::Lost]).await);
    enrol(&token(&plane, "h1"), folder.path(), Former::Keep)
        .await
        .unwrap();
    let files = Files::of(folder.path());
    assert_eq!(host_of(folder.path()).as_deref(), Some("h1"));
    assert_eq!(files.url().unwrap().to_string(), plane.url);
    files.authority().unwrap();
    assert!(is_tidy(folder.path()));
    let (lost, heard) = (
        plane.asked.recv().await.unwrap(),
        plane.asked.recv().await.unwrap(),
    );
    assert_eq!(lost.path, "/v1/hosts/h1/enrol");
    assert_eq!(lost.key, heard.key);
}

#[tokio::test]
async fn an_answer_that_does_not_fit_the_token_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut plane = Plane::new(&[
        Answer::OfAnotherAuthority,
        Answer::OfAnotherHost,
        Answer::Refused(403),
    ])
    .await;
    enrolled(folder.path(), "h1");
    let before = Files::of(folder.path()).present().unwrap().key_id().to_owned();
    for _ in 0..3 {
        let refused = enrol(&token(&plane, "h1"), folder.path(), Former::Keep).await;
        assert!(refused.is_err());
        let files = Files::of(folder.path());
        assert_eq!(files.present().unwrap().key_id(), before);
        assert_eq!(files.url().unwrap().to_string(), "https://127.0.0.1:9");
    }
    // A further try is made with the same key.
    enrol(&token(&plane, "h1"), folder.path(), Former::Keep)
        .await
        .unwrap();
    assert_ne!(Files::of(folder.path()).present().unwrap().key_id(), before);
    assert!(is_tidy(folder.path()));
    let first = plane.asked.recv().await.unwrap().key;
    for _ in 0..3 {
        assert_eq!(plane.asked.recv().await.unwrap().key, first);
    }
}

#[tokio::test]
async fn another_host_is_replaced_only_as_a_whole_and_only_if_that_is_said() {
    let (folder, mut plane) = (tempfile::tempdir().unwrap(), Plane::new(&[]).await);
    enrolled(folder.path(), "h1");
    let error = enrol(&token(&plane, "h2"), folder.path(), Former::Keep)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("this machine is host h1"), "{error}");
    assert_eq!(host_of(folder.path()).as_deref(), Some("h1"));
    assert!(plane.asked.try_recv().is_err());
    enrol(&token(&plane, "h2"), folder.path(), Former::Replace)
        .await
        .unwrap();
    assert_eq!(host_of(folder.path()).as_deref(), Some("h2"));
    assert_eq!(Files::of(folder.path()).url().unwrap().to_string(), plane.url);
}

#[tokio::test]
async fn nothing_is_asked_while_a_daemon_works_with_the_state() {
    let (folder, mut plane) = (tempfile::tempdir().unwrap(), Plane::new(&[]).await);
    let daemon = Records::open(folder.path()).unwrap().lock().unwrap();
    let error = enrol(&token(&plane, "h1"), folder.path(), Former::Keep)
        .await
        .unwrap_err();
    assert!(matches!(error, EnrolError::Locked { .. }), "{error}");
    assert!(plane.asked.try_recv().is_err());
    drop(daemon);
    enrol(&token(&plane, "h1"), folder.path(), Former::Keep)
        .await
        .unwrap();
}
