//! The stream of changes.

use super::*;

#[test]
fn a_watch_brings_whole_batches_from_a_bookmark_on() {
    run(async {
        let rig = Rig::linked().await;
        let mut all = Events::open(&rig, "/v1/watch").await;
        let mut net = Events::open(&rig, "/v1/watch?prefix=net").await;
        assert_eq!(
            all.next().await,
            Some(WatchEvent::Bookmark {
                revision: revision(2)
            })
        );
        assert_eq!(
            net.next().await,
            Some(WatchEvent::Bookmark {
                revision: revision(2)
            })
        );
        rig.host.change(&[("a", Some(b"two")), ("net/ip", Some(b"1"))]);
        assert_eq!(
            all.changed().await,
            (revision(3), vec!["a".into(), "net/ip".into()])
        );
        assert_eq!(net.changed().await, (revision(3), vec!["net/ip".into()]));
        rig.host.change(&[("a", None)]);
        assert_eq!(
            net.next().await,
            Some(WatchEvent::Bookmark {
                revision: revision(4)
            })
        );
        // Resumed where it was left, nothing is left out.
        let mut again = Events::open(&rig, "/v1/watch?after=1.2").await;
        assert_eq!(again.changed().await.0, revision(3));
        assert_eq!(again.changed().await, (revision(4), vec!["a".into()]));
        for lost in ["0.1", "1.99"] {
            let mut lost = Events::open(&rig, &format!("/v1/watch?after={lost}")).await;
            assert_eq!(
                lost.next().await,
                Some(WatchEvent::Resync {
                    revision: revision(2)
                })
            );
            assert_eq!(lost.next().await, None);
        }
    });
}

#[test]
fn a_slow_watcher_is_told_to_resync() {
    run(async {
        let rig = Rig::linked().await;
        let mut events = Events::open(&rig, "/v1/watch").await;
        let mut seen = match events.next().await {
            Some(WatchEvent::Bookmark { revision }) => revision,
            other => panic!("{other:?}"),
        };
        let value = vec![b'x'; 60_000];
        for n in 3..40 {
            rig.host.change(&[("a", Some(&value))]);
            rig.mirrored(n).await;
        }
        loop {
            match events.next().await {
                Some(WatchEvent::Changes { revision, .. }) => {
                    assert_eq!(revision.n, seen.n + 1, "a change was left out in silence");
                    seen = revision;
                }
                Some(WatchEvent::Resync { revision }) => break assert!(revision > seen),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(events.next().await, None);
    });
}

#[test]
fn a_lost_link_is_not_seen_by_a_watch_of_ones_own() {
    run(async {
        let rig = Rig::linked().await;
        let mut events = Events::open(&rig, "/v1/watch?after=1.2").await;
        rig.host.order(Order::Cut);
        rig.host.change(&[("a", Some(b"meanwhile"))]);
        assert_eq!(events.changed().await, (revision(3), vec!["a".into()]));
    });
}
