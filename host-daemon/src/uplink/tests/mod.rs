//! The uplink against a scripted control plane, with real shards and real guests.

mod cold_start;
mod compare;
mod plane;
mod polls;
mod world;

use std::time::Duration;

use axum::http::StatusCode;
use moorline_shared::InstanceId;
use moorline_shared::api::feed::{FeedItem, FeedMessage, OpenFeed, ViewId};
use moorline_shared::api::hosts::ReportState;
use moorline_shared::api::instances::InstanceState;
use moorline_shared::api::sync::{HostSync, SyncHost};
use moorline_shared::link::body::{Code, Freshness};
use moorline_shared::link::session::GuestEvent;
use tokio::sync::mpsc;

use world::{PATIENCE, World, batch, caught_up, hello, put_own, snapshot, soon};

use super::SpecChange;
use crate::link::tests::{Agent, id, revision, spec, view};

#[tokio::test]
async fn the_feed_fills_the_shards_names_the_machines_and_resumes_where_it_was_lost() {
    let mut world = World::new().await;
    let lines = world.begun().await;
    assert_eq!(soon(world.specs.recv()).await, SpecChange::Set(spec(1)));
    assert_eq!(soon(world.specs.recv()).await, SpecChange::Complete);
    batch(&lines, 5, 6, vec![put_own(1, 6, "six")]);
    lines
        .send(FeedMessage::Bookmark {
            revision: revision(8),
        })
        .unwrap();
    world.stands_at(1, 6).await;
    drop(lines);

    let again = world.opened().await;
    assert_eq!(again.asked.cursor, Some(revision(8)));
    let stale = world.handle().feed_clock().standing(crate::link::now());
    assert_eq!(stale.freshness, Freshness::Stale, "before the feed has caught up");
    hello(&again.lines, 2, "test");
    let items = vec![FeedItem::Instance(spec(1)), view(1, 1, 9, &[("a", "nine")])];
    caught_up(&again.lines, Some(8), 9, items);
    world.stands_at(1, 9).await;
    // The guests see the batch before the clock is told of it.
    let fresh = async {
        while world.handle().feed_clock().standing(crate::link::now()).freshness != Freshness::Fresh {
            tokio::task::yield_now().await;
        }
        Some(())
    };
    soon(fresh).await;
    world.end().await;
}

#[tokio::test]
async fn everything_anew_ends_the_machines_that_it_does_not_name() {
    let mut world = World::new().await;
    let lines = world.begun().await;
    batch(&lines, 5, 6, vec![FeedItem::Instance(spec(2))]);
    drop(lines);
    let again = world.opened().await;
    hello(&again.lines, 2, "test");
    let items = vec![FeedItem::Instance(spec(2)), view(2, 2, 7, &[])];
    caught_up(&again.lines, None, 7, items);
    let mut told = Vec::new();
    for _ in 0..6 {
        told.push(soon(world.specs.recv()).await);
    }
    let expected = [
        SpecChange::Set(spec(1)),
        SpecChange::Complete,
        SpecChange::Set(spec(2)),
        SpecChange::Gone(id(1)),
        SpecChange::Set(spec(2)),
        SpecChange::Complete,
    ];
    assert_eq!(told, expected);
    world.end().await;
}

/// What came of a snapshot that was cut is shown, but the machines and the cursor wait for the rest.
#[tokio::test]
async fn a_snapshot_that_is_cut_begins_again_from_where_the_host_stood() {
    let mut world = World::new().await;
    drop(world.begun().await);
    let cut = world.opened().await;
    hello(&cut.lines, 2, "test");
    let instances = || vec![FeedItem::Instance(spec(1)), FeedItem::Instance(spec(2))];
    snapshot(&cut.lines, Some(5), 9, instances());
    for (n, value) in [(1, "nine"), (2, "new")] {
        let items = vec![view(n, n, 9, &[("a", value)])];
        cut.lines.send(FeedMessage::Part { items }).unwrap();
    }
    world.stands_at(1, 9).await;
    assert_eq!(
        world.handle().status().await.unwrap().len(),
        1,
        "half a view is shown"
    );
    drop(cut.lines);

    let again = world.opened().await;
    assert_eq!(again.asked.cursor, Some(revision(5)));
    hello(&again.lines, 3, "test");
    let mut items = instances();
    items.push(view(1, 1, 10, &[("a", "ten")]));
    items.push(view(2, 2, 10, &[("a", "new")]));
    caught_up(&again.lines, Some(5), 10, items);
    world.stands_at(2, 10).await;
    world.stands_at(1, 10).await;
    let expected = [
        SpecChange::Set(spec(1)),
        SpecChange::Complete,
        SpecChange::Set(spec(2)),
    ];
    for change in expected {
        assert_eq!(soon(world.specs.recv()).await, change);
    }
    world.end().await;
}

/// An instance that went away meanwhile goes with its machine, and the others stay as they are.
#[tokio::test]
async fn a_snapshot_from_a_cursor_ends_what_it_does_not_name() {
    let mut world = World::new().await;
    let lines = world.begun().await;
    batch(
        &lines,
        5,
        6,
        vec![FeedItem::Instance(spec(2)), put_own(2, 6, "two")],
    );
    world.stands_at(2, 6).await;
    drop(lines);
    let again = world.opened().await;
    hello(&again.lines, 2, "test");
    caught_up(&again.lines, Some(6), 7, vec![FeedItem::Instance(spec(2))]);
    let expected = [
        SpecChange::Set(spec(1)),
        SpecChange::Complete,
        SpecChange::Set(spec(2)),
        SpecChange::Gone(id(1)),
    ];
    for change in expected {
        assert_eq!(soon(world.specs.recv()).await, change);
    }
    let status = world.handle().status().await.unwrap();
    let left: Vec<_> = status
        .iter()
        .map(|status| (status.instance, status.revision))
        .collect();
    assert_eq!(left, [(id(2), Some(revision(6)))]);
    world.end().await;
}

#[tokio::test]
async fn a_batch_that_builds_on_what_is_not_here_begins_everything_anew() {
    let mut world = World::new().await;
    let lines = world.begun().await;
    batch(&lines, 7, 8, vec![put_own(1, 8, "eight")]);
    assert_eq!(world.opened().await.asked.cursor, None);
    world.stands_at(1, 5).await;
    world.end().await;
}

#[tokio::test]
async fn another_deployment_begins_everything_anew() {
    let mut world = World::new().await;
    let lines = world.begun().await;
    world.guest(1, |agent| read_until(agent, id(2), b"up")).await;
    assert_eq!(soon(world.interests.recv()).await.add, [foreign(2)]);
    batch(&lines, 5, 6, vec![view(1, 2, 6, &[]), put_own(1, 6, "six")]);
    world.stands_at(1, 6).await;
    drop(lines);
    let other = world.opened().await;
    let was_asked = (other.asked.cursor, other.asked.interests);
    assert_eq!(was_asked, (Some(revision(6)), vec![foreign(2)]));
    hello(&other.lines, 1, "other");
    let anew = world.opened().await;
    assert_eq!((anew.asked.cursor, anew.asked.interests), (None, vec![]));
    hello(&anew.lines, 2, "other");
    caught_up(
        &anew.lines,
        None,
        2,
        vec![FeedItem::Instance(spec(1)), view(1, 1, 2, &[])],
    );
    world.stands_at(1, 2).await;
    world.end().await;
}

#[tokio::test]
async fn a_view_whose_changes_were_lost_is_asked_for_until_it_comes() {
    let mut world = World::new().await;
    let lines = world.begun().await;
    let failures = [
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::UNAUTHORIZED,
    ];
    world.plane.answers.lock().unwrap().extend(failures);
    *world.plane.view.lock().unwrap() = Some(view(1, 1, 7, &[("b", "7")]));
    let own = ViewId::own(id(1));
    lines.send(FeedMessage::Resync { view: own }).unwrap();
    batch(&lines, 5, 7, vec![]);
    for _ in 0..=failures.len() {
        assert_eq!(
            soon(world.views.recv()).await,
            own,
            "after a failure it is asked for again"
        );
    }
    world.stands_at(1, 7).await;
    world.end().await;
}

#[tokio::test]
async fn a_feed_without_a_word_is_left() {
    let mut world = World::new().await;
    let silent = world.opened().await;
    let hello = FeedMessage::Hello {
        host: "h1".parse().unwrap(),
        session: 1,
        deployment: "test".into(),
        bookmark_seconds: 0,
    };
    silent.lines.send(hello).unwrap();
    world.opened().await;
    world.end().await;
}

#[tokio::test]
async fn reports_are_sent_until_they_are_answered_and_the_last_counts() {
    let mut world = World::new().await;
    world.begun().await;
    let report = |state| ReportState {
        instance: id(1),
        state,
        incarnation: 1,
        reboots: 0,
        reason: None,
    };
    let plane = world.plane.clone();
    plane.answers.lock().unwrap().extend([
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::UNAUTHORIZED,
        StatusCode::OK,
        StatusCode::CONFLICT,
    ]);
    world.report.report(report(InstanceState::Running));
    let first = soon(world.reports.recv()).await;
    for _ in 0..2 {
        let again = soon(world.reports.recv()).await;
        assert_eq!(again, first, "the same, under the same key");
    }
    world.report.report(report(InstanceState::Stopped));
    assert_eq!(soon(world.reports.recv()).await.0.state, InstanceState::Stopped);
    world.report.report(report(InstanceState::Failed));
    assert_eq!(
        soon(world.reports.recv()).await.0.state,
        InstanceState::Failed,
        "a refused report is not sent again"
    );
    world.end().await;
}

fn foreign(instance: u8) -> ViewId {
    ViewId {
        reader: id(1),
        instance: id(instance),
    }
}

fn refusal(agent: &mut Agent, instance: InstanceId, at: &str) -> u16 {
    let stream = agent.ask_get(Some(instance), at);
    agent.answer(stream).unwrap_err().code
}

#[tokio::test]
async fn a_guest_reads_of_another_instance_what_the_control_plane_lets_it() {
    let mut world = World::new().await;
    let lines = world.begun().await;
    world
        .guest(1, |agent| {
            let codes = ["404", "403", "422", "503"].map(|status| refusal(agent, id(2), status));
            let expected = [Code::NotFound, Code::Denied, Code::Invalid, Code::Unavailable];
            assert_eq!(codes, expected.map(|code| code as u16));
            let stream = agent.ask_get(Some(id(2)), "shared");
            assert_eq!(&agent.answer(stream).unwrap().value[..], b"up");
        })
        .await;
    let set = soon(world.interests.recv()).await;
    assert_eq!((set.session, set.add, set.remove), (1, vec![foreign(2)], vec![]));
    // The feed is lost before the view came: it has to be asked for again; after it came, the cursor is enough.
    drop(lines);
    let again = world.opened().await;
    assert_eq!(again.asked.interests, []);
    hello(&again.lines, 2, "test");
    caught_up(&again.lines, Some(5), 5, vec![FeedItem::Instance(spec(1))]);
    assert_eq!(soon(world.interests.recv()).await.add, [foreign(2)]);
    batch(&again.lines, 5, 5, vec![view(1, 2, 5, &[("shared", "view")])]);
    batch(&again.lines, 5, 6, vec![put_own(1, 6, "six")]);
    world.stands_at(1, 6).await;
    drop(again.lines);
    let last = world.opened().await;
    assert_eq!(last.asked.interests, [foreign(2)]);
    world.end().await;
}

/// Reads the entry until it is as expected.
fn read_until(agent: &mut Agent, instance: InstanceId, expected: &[u8]) {
    let begun = std::time::Instant::now();
    loop {
        agent.ask_get(Some(instance), "shared");
        match agent.next() {
            GuestEvent::Found(_, found, _) if &found.value[..] == expected => return,
            // It may be told to come back when it asks so often.
            GuestEvent::Found(..) | GuestEvent::Busy(..) => {}
            other => panic!("{other:?} came instead of an answer"),
        }
        assert!(begun.elapsed() < PATIENCE, "the entry is never as expected");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn what_a_reader_may_see_no_more_is_not_kept_when_its_changes_were_lost() {
    let mut world = World::new().await;
    let lines = world.begun().await;
    let plane = world.plane.clone();
    world
        .guest(1, move |agent| {
            // The control plane says `up`, the view that the feed brings says `view`.
            read_until(agent, id(2), b"up");
            batch(&lines, 5, 6, vec![view(1, 2, 6, &[("shared", "view")])]);
            read_until(agent, id(2), b"view");
            plane.answers.lock().unwrap().push_back(StatusCode::FORBIDDEN);
            lines.send(FeedMessage::Resync { view: foreign(2) }).unwrap();
            batch(&lines, 6, 7, vec![]);
            read_until(agent, id(2), b"up");
        })
        .await;
    world.end().await;
}

/// A refusal of one view costs the others nothing, and who waits for it hears of it.
#[tokio::test]
async fn views_that_are_refused_together_are_asked_for_one_by_one() {
    let mut world = World::new().await;
    let lines = world.begun().await;
    world.plane.interest_answers.lock().unwrap().extend([
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::UNAUTHORIZED,
        StatusCode::UNPROCESSABLE_ENTITY,
        StatusCode::NO_CONTENT,
        StatusCode::UNPROCESSABLE_ENTITY,
    ]);
    let plane = world.plane.clone();
    world
        .guest(1, move |agent| {
            // Both are in the first call that comes to anything, whatever the calls before it had.
            let streams = [2, 3].map(|instance| agent.watch(Some(id(instance)), ""));
            let refused = match agent.next() {
                GuestEvent::Refused(stream, refused) => (stream, refused.code),
                other => panic!("{other:?} came instead of a refusal"),
            };
            assert_eq!(refused, (streams[1], Code::Denied as u16));
            assert_eq!(plane.interest_answers.lock().unwrap().len(), 0);
            batch(&lines, 5, 6, vec![view(1, 2, 6, &[("shared", "view")])]);
            agent.batch(streams[0]);
        })
        .await;
    world.end().await;
}
