//! A daemon that begins with what an earlier one left.

use super::*;

/// What the daemon leaves of instance 1 at revision 6.
async fn left() -> tempfile::TempDir {
    let mut world = World::new().await;
    let lines = world.begun().await;
    batch(&lines, 5, 6, vec![put_own(1, 6, "six")]);
    world.keeps(revision(6)).await;
    world.end_and_leave().await
}

fn file_of(n: u8, folder: &tempfile::TempDir) -> std::path::PathBuf {
    folder.path().join(format!("cache/{}.view", id(n)))
}

#[tokio::test]
async fn guests_read_with_the_control_plane_away_and_it_becomes_fresh_by_itself() {
    let mut world = World::within(left().await).await;
    let opened = world.opened().await;
    assert_eq!(opened.asked.cursor, Some(revision(6)));
    let lines = opened.lines.clone();
    world
        .guest(1, move |agent| {
            let before = agent.get("a").unwrap();
            assert_eq!(
                (&before.value[..], before.freshness),
                (&b"six"[..], Freshness::Stale)
            );
            hello(&lines, 1, "test");
            caught_up(
                &lines,
                Some(6),
                8,
                vec![FeedItem::Instance(spec(1)), view(1, 1, 8, &[("a", "8")])],
            );
            assert_eq!(agent.mirror().to, revision(8));
            let told = |agent: &Agent| agent.standings.last().unwrap().freshness;
            let mut count = 1;
            while told(agent) == Freshness::Stale {
                count += 1;
                agent.standing(count);
            }
            assert_eq!(agent.get("a").unwrap().freshness, Freshness::Fresh);
        })
        .await;
    assert_eq!(soon(world.specs.recv()).await, SpecChange::Set(spec(1)));
    assert_eq!(soon(world.specs.recv()).await, SpecChange::Complete);
    world.end().await;
}

#[tokio::test]
async fn a_view_that_is_not_on_disk_is_asked_for_and_everything_else_is_served() {
    let folder = left().await;
    std::fs::write(file_of(1, &folder), "not a view").unwrap();
    let mut world = World::within(folder).await;
    let opened = world.opened().await;
    assert_eq!(opened.asked.cursor, Some(revision(6)));
    *world.plane.view.lock().unwrap() = Some(view(1, 1, 7, &[("a", "six")]));
    hello(&opened.lines, 1, "test");
    // Nothing changed since, as far as the control plane knows.
    caught_up(&opened.lines, Some(6), 7, vec![FeedItem::Instance(spec(1))]);
    assert_eq!(soon(world.views.recv()).await, ViewId::own(id(1)));
    world.stands_at(1, 7).await;
    let written = async {
        while !file_of(1, &world.folder).exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Some(())
    };
    soon(written).await;
    let aside = format!("cache/corrupt/{}.view.1", id(1));
    assert_eq!(
        std::fs::read(world.folder.path().join(aside)).unwrap(),
        b"not a view"
    );
    world.end().await;
}

#[tokio::test]
async fn instances_that_are_gone_meanwhile_go_with_their_files() {
    let mut world = World::within(left().await).await;
    let opened = world.opened().await;
    hello(&opened.lines, 1, "test");
    caught_up(
        &opened.lines,
        Some(6),
        9,
        vec![FeedItem::Instance(spec(2)), view(2, 2, 9, &[("a", "2")])],
    );
    assert_eq!(soon(world.specs.recv()).await, SpecChange::Gone(id(1)));
    assert_eq!(soon(world.specs.recv()).await, SpecChange::Set(spec(2)));
    assert_eq!(soon(world.specs.recv()).await, SpecChange::Complete);
    world.keeps(revision(9)).await;
    let folder = world.end_and_leave().await;
    assert!(!file_of(1, &folder).exists() && file_of(2, &folder).exists());
}

#[tokio::test]
async fn what_is_of_another_deployment_is_dropped_and_fetched_anew() {
    let mut world = World::within(left().await).await;
    hello(&world.opened().await.lines, 1, "another");
    let again = world.opened().await;
    assert_eq!(again.asked, OpenFeed::default());
    hello(&again.lines, 2, "another");
    caught_up(
        &again.lines,
        None,
        2,
        vec![FeedItem::Instance(spec(1)), view(1, 1, 2, &[("a", "other")])],
    );
    world.keeps(revision(2)).await;
    let world = World::within(world.end_and_leave().await).await;
    world.stands_at(1, 2).await;
    world.end().await;
}

/// The control plane was restored, and its revisions are of another epoch.
#[tokio::test]
async fn a_cursor_that_means_nothing_any_more_brings_everything_anew() {
    let mut world = World::within(left().await).await;
    let opened = world.opened().await;
    hello(&opened.lines, 1, "test");
    let restored = moorline_shared::Revision::new(2, 1);
    let FeedItem::View(mut whole) = view(1, 1, 1, &[("a", "restored")]) else {
        unreachable!("a view is a view")
    };
    (whole.revision, whole.entries[0].entry.revision) = (restored, restored);
    let (from, to) = (None, restored);
    opened.lines.send(FeedMessage::Snapshot { from, to }).unwrap();
    let items = vec![FeedItem::Instance(spec(1)), FeedItem::View(whole)];
    opened.lines.send(FeedMessage::Part { items }).unwrap();
    opened.lines.send(FeedMessage::SnapshotEnd { to }).unwrap();
    world.keeps(restored).await;
    let taken = world.handle().take_image(id(1)).await.unwrap();
    assert_eq!(taken.map(|taken| taken.image.revision), Some(restored));
    world.end().await;
}
