//! Who in the guest may read what.

use std::path::PathBuf;
use std::rc::Rc;

use super::*;
use crate::access::{Names, Peer, Rules};
use crate::local::native::Native;
use crate::local::posing::door_for;

const RULES: &str = "app @200\napp/open all\ninstances/i-02020202020202020202020202020202/open/x root\n";

/// A linked agent with rules, and sockets on which everyone is user 1000, the one time in group 200, the other not.
async fn ruled() -> (Rig, PathBuf, PathBuf) {
    let rules = Rules::parse(RULES, &Names::default()).unwrap();
    let mut rig = Rig::ruled(settings(), rules).await;
    let surface = Rc::new(Native::new(&rig.backing));
    let inside = door_for(&mut rig, &surface, "inside", Peer::process(1000, vec![1000, 200]));
    let outside = door_for(&mut rig, &surface, "outside", Peer::process(1000, vec![1000]));
    rig.host.change(&[
        ("app/db", Some(b"secret")),
        ("app/open", Some(b"open")),
        ("apple", Some(b"fruit")),
    ]);
    rig.mirrored(3).await;
    (rig, inside, outside)
}

async fn ask(socket: &Path, target: &str) -> Answer {
    Client::connect_to(socket)
        .await
        .ask(request("GET", target, ""))
        .await
}

#[test]
fn what_is_denied_is_not_there() {
    run(async {
        let (rig, inside, outside) = ruled().await;
        assert_eq!(&ask(&inside, "/v1/data/app/db").await.body[..], b"secret");
        for target in [
            "/v1/data/app/DB",
            "/v1/data/app/DB?max_age_ms=0",
            "/v1/data/app/DB?wait_for_change=true&timeout_sec=1",
            "/v1/entries/app/DB",
        ] {
            let denied = ask(&outside, &target.replace("DB", "db")).await;
            let unknown = ask(&outside, &target.replace("DB", "dx")).await;
            let same = |answer: &Answer| {
                let text = String::from_utf8(answer.body.to_vec()).unwrap();
                (
                    answer.status,
                    answer.header("etag").to_owned(),
                    text.replace("app/dx", "app/db"),
                )
            };
            assert_eq!(denied.status, 404, "{target}");
            assert_eq!(same(&denied), same(&unknown), "{target}");
        }
        assert_eq!(&ask(&outside, "/v1/data/app/open").await.body[..], b"open");
        assert_eq!(rig.host.with(|host| host.asked.clone()), Vec::<String>::new());
    });
}

#[test]
fn listings_leave_out_what_is_denied() {
    run(async {
        let (_rig, inside, outside) = ruled().await;
        for (socket, expected) in [
            (&inside, vec!["a", "app/db", "app/open", "apple"]),
            (&outside, vec!["a", "app/open", "apple"]),
        ] {
            let listing: Listing = ask(socket, "/v1/data?values=true").await.json();
            let paths: Vec<_> = listing.entries.iter().map(|entry| entry.path.as_str()).collect();
            assert_eq!(paths, expected);
        }
    });
}

#[test]
fn watches_leave_out_what_is_denied() {
    run(async {
        let (rig, _, outside) = ruled().await;
        let mut events = Events::of(Client::connect_to(&outside).await, "/v1/watch").await;
        assert!(matches!(events.next().await, Some(WatchEvent::Bookmark { .. })));
        rig.host.change(&[("app/db", Some(b"other"))]);
        rig.host.change(&[("app/db", None), ("a", Some(b"two"))]);
        loop {
            match events.next().await {
                Some(WatchEvent::Changes { changes, .. }) => {
                    let paths: Vec<_> = changes.iter().map(|change| change.path.as_str()).collect();
                    assert_eq!(paths, ["a"]);
                    break;
                }
                Some(WatchEvent::Bookmark { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
        // That it was removed, and when, is as little this user's business.
        let gone = ask(&outside, "/v1/data/app/db").await;
        assert_eq!((gone.status.as_u16(), gone.header("etag")), (404, "\"0.0\""));
    });
}

#[test]
fn rules_reach_other_instances_data() {
    run(async {
        let (rig, _, outside) = ruled().await;
        rig.host.change_other("open/x", Some(b"x"));
        rig.host.change_other("open/y", Some(b"y"));
        let of = |rest: &str| format!("/v1/instances/{OTHER}/{rest}");
        assert_eq!(ask(&outside, &of("data/open/x")).await.problem().0, 404);
        assert_eq!(ask(&outside, &of("entries/open/x")).await.problem().0, 404);
        assert_eq!(&ask(&outside, &of("data/open/y")).await.body[..], b"y");
        let listing: Listing = ask(&outside, &of("data/open/")).await.json();
        let paths: Vec<_> = listing.entries.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["open/y"]);
        for target in ["watch?prefix=open/x", "data/?prefix=open/x"] {
            assert_eq!(ask(&outside, &of(target)).await.problem().0, 403, "{target}");
        }
        assert_eq!(rig.host.with(|host| host.watches), 0, "the host isn't asked");
    });
}
