//! Other instances' data, through the host.

use super::*;

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
