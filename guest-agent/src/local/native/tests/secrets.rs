//! Secret entries are root's: to others they are not there, on any way of reading, nor is it said when they come and go.

use std::path::PathBuf;
use std::rc::Rc;

use super::*;
use crate::access::Peer;
use crate::local::native::Native;
use crate::local::posing::door_for;

/// A linked agent with secret entries, its own and another's, and sockets on which everyone is root or user 1000.
async fn secretive() -> (Rig, PathBuf, PathBuf) {
    let mut rig = Rig::linked().await;
    let surface = Rc::new(Native::new(&rig.backing));
    let root = door_for(&mut rig, &surface, "root", Peer::process(0, vec![0]));
    let user = door_for(&mut rig, &surface, "user", Peer::process(1000, vec![1000]));
    rig.host.with(|state| {
        state.secret = ["key", "open/key"].map(str::to_owned).into();
    });
    rig.host.change(&[("key", Some(b"sesame"))]);
    rig.host.change_other("open/key", Some(b"theirs"));
    rig.host.change_other("open/x", Some(b"x"));
    rig.mirrored(3).await;
    (rig, root, user)
}

async fn ask(socket: &Path, target: &str) -> Answer {
    let mut client = Client::connect_to(socket).await;
    client.ask(request("GET", target, "")).await
}

async fn watching(socket: &Path, target: &str) -> Events {
    let mut events = Events::of(Client::connect_to(socket).await, target).await;
    assert!(matches!(events.next().await, Some(WatchEvent::Bookmark { .. })));
    events
}

/// What is said until `last` is named: `+PATH` for what is there, `-PATH` for what is gone.
async fn said(events: &mut Events, last: &str) -> Vec<String> {
    let mut said = Vec::new();
    while !said.iter().any(|one| one == last) {
        match events.next().await {
            Some(WatchEvent::Changes { changes, .. }) => said.extend(changes.iter().map(|change| {
                let sign = if change.entry.is_some() { '+' } else { '-' };
                format!("{sign}{}", change.path)
            })),
            Some(WatchEvent::Bookmark { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    said
}

#[test]
fn a_secret_is_there_for_root_alone() {
    run(async {
        let (rig, root, user) = secretive().await;
        let theirs = |rest: &str| format!("/v1/instances/{OTHER}/{rest}");
        for (target, value) in [
            ("/v1/data/key".to_owned(), "sesame"),
            (theirs("data/open/key"), "theirs"),
        ] {
            assert_eq!(ask(&root, &target).await.body, value);
            for target in [
                target.clone(),
                target.replace("/data/", "/entries/"),
                format!("{target}?max_age_ms=0"),
            ] {
                let denied = ask(&user, &target).await;
                assert_eq!(
                    (denied.status.as_u16(), denied.header("etag")),
                    (404, "\"0.0\""),
                    "{target}"
                );
            }
        }
        for (socket, own, others) in [(&root, vec!["a", "key"], 2), (&user, vec!["a"], 1)] {
            let listing: Listing = ask(socket, "/v1/data?values=true").await.json();
            let paths: Vec<_> = listing.entries.iter().map(|entry| entry.path.as_str()).collect();
            assert_eq!(paths, own);
            let listing: Listing = ask(socket, &theirs("data/open/")).await.json();
            assert_eq!(listing.entries.len(), others);
        }
        drop(rig);
    });
}

#[test]
fn nobody_else_hears_of_a_secret_that_comes_and_goes() {
    run(async {
        let (rig, root, user) = secretive().await;
        let theirs = format!("/v1/instances/{OTHER}/watch?prefix=open");
        let (mut roots, mut users) = (
            watching(&root, "/v1/watch").await,
            watching(&user, "/v1/watch").await,
        );
        rig.host.change(&[("key", Some(b"other"))]);
        assert_eq!(said(&mut roots, "+key").await, ["+key"]);
        rig.host.change(&[("key", None)]);
        assert_eq!(said(&mut roots, "-key").await, ["-key"]);
        rig.host.change(&[("z", Some(b"z"))]);
        assert_eq!(said(&mut users, "+z").await, ["+z"]);

        let (mut roots, mut users) = (watching(&root, &theirs).await, watching(&user, &theirs).await);
        rig.host.change_other("open/key", Some(b"other"));
        assert_eq!(said(&mut roots, "+open/key").await, ["+open/key"]);
        rig.host.change_other("open/key", None);
        assert_eq!(said(&mut roots, "-open/key").await, ["-open/key"]);
        rig.host.change_other("open/z", Some(b"z"));
        assert_eq!(said(&mut users, "+open/z").await, ["+open/z"]);
        let gone = ask(&user, "/v1/data/key").await;
        assert_eq!((gone.status.as_u16(), gone.header("etag")), (404, "\"0.0\""));
        assert_ne!(ask(&root, "/v1/data/key").await.header("etag"), "\"0.0\"");
    });
}

#[test]
fn what_becomes_secret_is_taken_back_from_those_who_had_it() {
    run(async {
        let (rig, _, user) = secretive().await;
        let theirs = format!("/v1/instances/{OTHER}/watch?prefix=open");
        let (mut own, mut other) = (watching(&user, "/v1/watch").await, watching(&user, &theirs).await);
        let mut client = Client::connect_to(&user).await;
        let polled = client.ask(request(
            "GET",
            "/v1/data/?wait_for_change=true&timeout_sec=20",
            "",
        ));
        let changing = async {
            rig.host
                .with(|state| state.secret.extend(["a", "open/x"].map(str::to_owned)));
            rig.host.change(&[("a", Some(b"hidden"))]);
            rig.host.change_other("open/x", Some(b"hidden"));
            assert_eq!(said(&mut own, "-a").await, ["-a"]);
            assert_eq!(said(&mut other, "-open/x").await, ["-open/x"]);
        };
        let (polled, ()) = tokio::join!(polled, changing);
        assert!(polled.json::<Listing>().entries.is_empty());
        // And given back.
        rig.host.with(|state| state.secret.clear());
        rig.host.change(&[("a", Some(b"shown"))]);
        rig.host.change_other("open/x", Some(b"shown"));
        assert_eq!(said(&mut own, "+a").await, ["+a"]);
        assert_eq!(said(&mut other, "+open/x").await, ["+open/x"]);
    });
}

#[test]
fn a_poll_on_anothers_secret_does_not_tell_when_it_changes() {
    run(async {
        let (rig, root, user) = secretive().await;
        let target = format!("/v1/instances/{OTHER}/data/open/key?wait_for_change=true&timeout_sec=");
        let mut client = Client::connect_to(&root).await;
        let long = format!("{target}20");
        let told = client.ask(request("GET", &long, ""));
        let short = format!("{target}1");
        let untold = ask(&user, &short);
        let changing = async {
            rig.host.until(|state| (state.watches >= 2).then_some(())).await;
            rig.host.change_other("open/key", Some(b"changed"));
        };
        let began = Instant::now();
        let waited = async { (untold.await, began.elapsed()) };
        let (told, (untold, elapsed), ()) = tokio::join!(told, waited, changing);
        assert_eq!(told.body, "changed");
        assert_eq!(untold.status, 404);
        assert!(elapsed >= Duration::from_secs(1), "it was told after {elapsed:?}");
    });
}
