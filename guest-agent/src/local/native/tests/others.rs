//! Other instances' data, through the host.

use std::rc::Rc;

use super::*;
use crate::access::Peer;
use crate::local::native::Native;
use crate::local::posing::door_for;

#[test]
fn another_instances_data_comes_through_the_host() {
    run(async {
        let rig = Rig::linked().await;
        for path in ["open/x", "open/y", "open/z"] {
            rig.host.change_other(path, Some(b"theirs"));
        }
        rig.host.change_other("shut/x", Some(b"secret"));
        let of = format!("/v1/instances/{OTHER}");
        let answer = get(&rig, &format!("{of}/data/open/x")).await;
        assert_eq!(
            (&answer.body[..], answer.header("etag")),
            (&b"theirs"[..], "\"1.2\"")
        );
        assert_eq!(
            (
                answer.header("moorline-age-ms"),
                answer.header("moorline-freshness")
            ),
            ("5", "stale")
        );
        let reading: EntryReading = get(&rig, &format!("{of}/entries/open/x")).await.json();
        assert_eq!(reading.value.text(), Some("theirs"));
        assert_eq!(
            get(&rig, &format!("{of}/data/shut/x")).await.problem(),
            (403, "access-denied".into())
        );
        assert_eq!(get(&rig, &format!("{of}/data/open/none")).await.problem().0, 404);
        let listing: Listing = get(&rig, &format!("{of}/data?prefix=open")).await.json();
        assert_eq!(listing.entries.len(), 3, "both pages");
        assert_eq!(
            get(&rig, &format!("{of}/watch?prefix=shut")).await.problem().0,
            403
        );

        rig.host.with(|state| state.answers = Answers::Busy);
        let busy = get(&rig, &format!("{of}/data/open/x")).await;
        assert_eq!((busy.problem().0, busy.header("retry-after")), (503, "3"));
    });
}

#[test]
fn another_instances_changes_are_watched_and_waited_for() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.change_other("open/x", Some(b"1"));
        let of = format!("/v1/instances/{OTHER}");
        let mut events = Events::open(&rig, &format!("{of}/watch?prefix=open")).await;
        assert_eq!(
            events.next().await,
            Some(WatchEvent::Bookmark {
                revision: revision(2)
            })
        );
        let mut client = Client::connect(&rig).await;
        let polling = client.ask(request(
            "GET",
            &format!("{of}/data/open/x?wait_for_change=true"),
            "",
        ));
        let changing = async {
            // Once the poll's own watch is there, beside the one above.
            rig.host.until(|state| (state.watches == 2).then_some(())).await;
            rig.host.change_other("open/x", Some(b"2"));
        };
        let (answer, ()) = tokio::join!(polling, changing);
        assert_eq!(&answer.body[..], b"2");
        assert_eq!(events.changed().await, (revision(3), vec!["open/x".into()]));
        rig.host.order(Order::Cut);
        assert!(matches!(events.next().await, Some(WatchEvent::Resync { .. })));
        assert_eq!(events.next().await, None);
    });
}

#[test]
fn what_users_do_not_read_is_bounded() {
    run(async {
        let mut rig = Rig::linked().await;
        let surface = Rc::new(Native::new(&rig.backing));
        let user = door_for(&mut rig, &surface, "user", Peer::process(1000, vec![1000]));
        let root = door_for(&mut rig, &surface, "root", Peer::process(0, vec![0]));
        let large = vec![b'x'; 256 * 1024];
        rig.host.change_other("open/x", Some(&large));
        let target = format!("/v1/instances/{OTHER}/data/open/x");
        // More than the socket takes waits in the agent for each of these.
        let mut unread = Vec::new();
        for _ in 0..8 {
            let mut client = Client::connect_to(&user).await;
            let answer = client.send(request("GET", &target, "")).await;
            assert_eq!(answer.status(), 200);
            unread.push((client, answer));
        }
        let refused = Client::connect_to(&user)
            .await
            .ask(request("GET", &target, ""))
            .await;
        assert_eq!(refused.problem(), (503, "too-much-unread".into()));
        let roots = Client::connect_to(&root)
            .await
            .ask(request("GET", &target, ""))
            .await;
        assert_eq!(roots.body.len(), large.len());
        let (_client, answer) = unread.pop().unwrap();
        assert_eq!(
            answer.into_body().collect().await.unwrap().to_bytes().len(),
            large.len()
        );
        let again = Client::connect_to(&user)
            .await
            .ask(request("GET", &target, ""))
            .await;
        assert_eq!(again.status, 200);
    });
}
