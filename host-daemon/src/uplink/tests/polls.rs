//! A host that polls, in place of a feed that stays open.

use moorline_shared::api::feed::{Poll, named};

use super::*;
use crate::config::{ControlConfig, Upkeep};

/// A daemon that polls every second or so.
async fn polling(sync: Upkeep) -> World {
    let control = ControlConfig {
        sync,
        poll_seconds: 1,
        sync_seconds: 0,
        ..ControlConfig::default()
    };
    World::with(tempfile::tempdir().unwrap(), control).await
}

impl World {
    /// The first poll of a daemon has brought one instance, and is over.
    async fn polled(&mut self) {
        let lines = self.begun().await;
        bookmark(&lines, 6);
    }

    async fn poll(&mut self) -> (OpenFeed, Poll, mpsc::UnboundedSender<FeedMessage>) {
        let opened = self.opened().await;
        let poll = opened.asked.poll.clone().expect("it polls");
        hello(&opened.lines, 2, "test");
        (opened.asked, poll, opened.lines)
    }

    /// A guest wants another's data: the poll that names it.
    async fn wants_another(&mut self) -> mpsc::UnboundedSender<FeedMessage> {
        self.guest(1, |agent| read_until(agent, id(2), b"up")).await;
        loop {
            let (_, poll, lines) = self.poll().await;
            if poll.add == [foreign(2)] {
                return lines;
            }
            assert_eq!(poll.add, []);
            bookmark(&lines, 6);
        }
    }

    fn freshness(&self) -> Freshness {
        let clock = self.handle().feed_clock();
        clock.standing(crate::link::now()).freshness
    }
}

fn bookmark(lines: &mpsc::UnboundedSender<FeedMessage>, at: u64) {
    let revision = revision(at);
    lines.send(FeedMessage::Bookmark { revision }).unwrap();
}

#[tokio::test]
async fn one_poll_follows_another_and_nothing_changed_is_two_lines() {
    let mut world = polling(Upkeep::Poll).await;
    world.polled().await;
    let ours = named([(id(1), spec(1).revision)]);
    for at in [7, 8] {
        let (asked, poll, lines) = world.poll().await;
        assert_eq!(asked.cursor, Some(revision(at - 1)));
        assert_eq!((poll.wait_ms, poll.instances), (0, Some(ours)));
        assert_eq!(world.freshness(), Freshness::Fresh, "between two polls");
        bookmark(&lines, at);
    }
    let (asked, _, lines) = world.poll().await;
    assert_eq!(asked.cursor, Some(revision(8)));
    let items = vec![FeedItem::Instance(spec(1)), view(1, 1, 9, &[("a", "nine")])];
    caught_up(&lines, Some(8), 9, items);
    bookmark(&lines, 9);
    world.stands_at(1, 9).await;
    drop(lines);
    assert_eq!(world.opened().await.asked.cursor, Some(revision(9)));
    assert!(world.interests.try_recv().is_err(), "no feed stays open");
    world.end().await;
}

#[tokio::test]
async fn a_long_poll_brings_a_batch_and_the_next_goes_on_from_there() {
    let mut world = polling(Upkeep::LongPoll).await;
    world.polled().await;
    let (_, poll, lines) = world.poll().await;
    assert!((750..=1_250).contains(&poll.wait_ms), "{poll:?}");
    batch(&lines, 6, 7, vec![put_own(1, 7, "seven")]);
    world.stands_at(1, 7).await;
    bookmark(&lines, 8);
    drop(lines);
    assert_eq!(world.opened().await.asked.cursor, Some(revision(8)));
    assert_eq!(world.freshness(), Freshness::Fresh);
    world.end().await;
}

#[tokio::test]
async fn a_poll_that_is_cut_off_is_a_feed_that_is_lost() {
    for sync in [Upkeep::LongPoll, Upkeep::Poll] {
        let mut world = polling(sync).await;
        world.polled().await;
        let (_, _, lines) = world.poll().await;
        batch(&lines, 6, 7, vec![put_own(1, 7, "seven")]);
        drop(lines);
        let again = world.opened().await;
        assert_eq!(again.asked.cursor, Some(revision(7)));
        assert_eq!(world.freshness(), Freshness::Stale);
        world.end().await;
    }
}

#[tokio::test]
async fn a_daemon_that_was_restarted_has_its_instances_named() {
    let mut world = polling(Upkeep::Poll).await;
    world.polled().await;
    world.keeps(revision(6)).await;
    let folder = world.end_and_leave().await;
    let control = ControlConfig {
        sync: Upkeep::Poll,
        ..ControlConfig::default()
    };
    let mut world = World::with(folder, control).await;
    let (asked, poll, lines) = world.poll().await;
    assert_eq!((asked.cursor, poll.instances), (Some(revision(6)), None));
    caught_up(&lines, Some(6), 7, vec![FeedItem::Instance(spec(1))]);
    bookmark(&lines, 7);
    assert_eq!(soon(world.specs.recv()).await, SpecChange::Set(spec(1)));
    assert_eq!(soon(world.specs.recv()).await, SpecChange::Complete);
    world.end().await;
}

#[tokio::test]
async fn a_view_that_a_poll_does_not_bring_is_not_asked_for_again() {
    let mut world = polling(Upkeep::Poll).await;
    world.polled().await;
    let lines = world.wants_another().await;
    bookmark(&lines, 6);
    drop(lines);
    let (asked, poll, _lines) = world.poll().await;
    assert_eq!((asked.interests, poll.add), (vec![], vec![]));
    world.end().await;
}

#[tokio::test]
async fn what_a_guest_wants_of_others_is_named_in_the_next_poll() {
    let mut world = polling(Upkeep::Poll).await;
    world.polled().await;
    let lines = world.wants_another().await;
    let items = vec![FeedItem::Instance(spec(1)), view(1, 2, 7, &[("shared", "whole")])];
    caught_up(&lines, Some(6), 7, items);
    bookmark(&lines, 7);
    drop(lines);
    let (asked, poll, _lines) = world.poll().await;
    assert_eq!((asked.interests, poll.add), (vec![foreign(2)], vec![]));
    assert!(world.interests.try_recv().is_err() && world.views.try_recv().is_err());
    world.end().await;
}

#[tokio::test]
async fn a_long_poll_is_told_of_what_a_guest_wants_while_it_is_kept() {
    let mut world = polling(Upkeep::LongPoll).await;
    world.polled().await;
    world
        .plane
        .interest_answers
        .lock()
        .unwrap()
        .push_back(StatusCode::CONFLICT);
    let (_, _, lines) = world.poll().await;
    world.guest(1, |agent| read_until(agent, id(2), b"up")).await;
    // The poll had just ended, by the control plane's reckoning.
    assert_eq!(soon(world.interests.recv()).await.add, [foreign(2)]);
    assert_eq!(soon(world.interests.recv()).await.add, [foreign(2)]);
    batch(&lines, 6, 7, vec![view(1, 2, 7, &[("shared", "whole")])]);
    bookmark(&lines, 7);
    drop(lines);
    let (asked, _, _lines) = world.poll().await;
    assert_eq!(asked.interests, [foreign(2)]);
    world.end().await;
}
