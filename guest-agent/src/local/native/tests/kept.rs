//! What programs are told by a mirror that began with what was kept on disk.

use super::*;
use crate::mirror::{Kept, Origin};
use crate::platform::stamp;

/// An agent whose host is away, and which kept `config/a` and nothing else below `config`.
async fn rig() -> Rig {
    let rig = Rig::without_host(settings()).await;
    let written = stamp();
    let kept = Kept {
        of: Origin {
            instance: OWN,
            incarnation: 7,
            authority: "test".to_owned(),
        },
        below: vec!["config".parse().unwrap()],
        revision: revision(9),
        age_ms: 90_000,
        written,
        items: vec![body::Item {
            path: "config/a".parse().unwrap(),
            entry: Some(entry(5, b"one")),
        }],
    };
    rig.line.remember(kept.of.clone());
    rig.mirror.restore(kept, &written).unwrap();
    rig
}

#[test]
fn it_is_given_out_as_stale_with_its_age() {
    run(async {
        let rig = rig().await;
        let answer = get(&rig, "/v1/data/config/a").await;
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"one"[..]));
        assert_eq!(answer.header(moorline_shared::agent::FRESHNESS), "stale");
        let reading: EntryReading = get(&rig, "/v1/entries/config/a").await.json();
        assert_eq!(reading.freshness, Freshness::Stale);
        assert!((90_000..120_000).contains(&reading.age_ms));
        let listing: Listing = get(&rig, "/v1/data/config/").await.json();
        assert_eq!((listing.entries.len(), listing.freshness), (1, Freshness::Stale));
        let status: Status = get(&rig, "/v1/status").await.json();
        assert_eq!(status.identity.unwrap().instance, OWN);
        assert_eq!(status.mirror.unwrap().revision, revision(9));
        let own = get(&rig, &format!("/v1/instances/{OWN}/data/config/a")).await;
        assert_eq!(own.status, 200);
    });
}

#[test]
fn what_was_not_kept_is_not_said_to_be_missing() {
    run(async {
        let rig = rig().await;
        for target in [
            "/v1/data/config/b",
            "/v1/data/other",
            "/v1/data/",
            "/v1/data/other/",
        ] {
            let (status, kind) = get(&rig, target).await.problem();
            assert_eq!(status, 503, "{target}: {kind}");
        }
        let (status, _) = get(&rig, "/v1/data/config/a?max_age_ms=1000").await.problem();
        assert_eq!(status, 503);
    });
}
