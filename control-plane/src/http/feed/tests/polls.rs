//! Hosts that poll, in place of a feed that stays open.

use std::time::Duration;

use moorline_shared::api::feed::FeedMessage;
use tokio::time::Instant;

use super::{Event, World};

impl World {
    /// A host that has polled once, and is in step.
    async fn polled() -> Self {
        let mut world = Self::new().await;
        world.dispatched().await;
        world.begin_poll(0).await;
        world.lines().await;
        world
    }

    async fn begin_poll(&mut self, wait_ms: u32) {
        self.polls = Some(wait_ms);
        self.connect().await;
    }

    /// The lines of the poll that was begun, which ends by itself. The host keeps what they say.
    async fn lines(&mut self) -> Vec<FeedMessage> {
        let mut messages = self.messages.take().expect("a poll was begun");
        let mut lines = Vec::new();
        while let Some(line) = messages.recv().await {
            self.host.apply(line.clone());
            lines.push(line);
        }
        assert!(
            matches!(lines.last(), Some(FeedMessage::Bookmark { .. })),
            "a poll that was cut: {lines:?}"
        );
        lines
    }
}

fn batches(lines: &[FeedMessage]) -> usize {
    let batch = |line: &&FeedMessage| matches!(line, FeedMessage::Batch { .. });
    lines.iter().filter(batch).count()
}

#[tokio::test]
async fn a_poll_of_nothing_costs_two_lines_also_where_others_changed() {
    let mut world = World::polled().await;
    for _ in 0..2 {
        // It moves the head, and concerns no host.
        world.happen(Event::LogOut).await;
        world.begin_poll(0).await;
        let lines = world.lines().await;
        assert!(
            matches!(
                &lines[..],
                [FeedMessage::Hello { .. }, FeedMessage::Bookmark { .. }]
            ),
            "{lines:?}"
        );
        let head = world.executor.store().head().await.unwrap();
        assert_eq!(world.host.cursor.map(|cursor| cursor.n), Some(head));
    }
    world.check().await;
}

#[tokio::test]
async fn a_poll_brings_what_changed_since_the_last() {
    let mut world = World::polled().await;
    for n in 0..3 {
        world.put(0, "a", &format!("value {n}")).await;
        world.begin_poll(0).await;
        world.lines().await;
        world.compare().await;
    }
    world.check().await;
}

#[tokio::test]
async fn instances_that_come_and_go_are_named() {
    let mut world = World::polled().await;
    world.run_instance().await;
    world.begin_poll(0).await;
    world.lines().await;
    assert_eq!(world.host.instances.len(), 3);
    world.end(0).await;
    world.begin_poll(0).await;
    world.lines().await;
    assert_eq!(world.host.instances.len(), 2);
    world.check().await;
}

#[tokio::test]
async fn a_long_poll_ends_with_what_comes_first() {
    let mut world = World::polled().await;
    world.begin_poll(60_000).await;
    let begun = Instant::now();
    world.put(0, "a", "news").await;
    let lines = world.lines().await;
    assert_eq!(batches(&lines), 1, "{lines:?}");
    assert!(begun.elapsed() < Duration::from_secs(50));
    world.compare().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_of_nothing_ends_when_it_should() {
    let mut world = World::polled().await;
    let begun = Instant::now();
    world.begin_poll(20_000).await;
    assert_eq!(world.lines().await.len(), 2);
    let took = begun.elapsed().as_secs();
    assert!((20..22).contains(&took), "{took} s");
}

#[tokio::test]
async fn what_was_revoked_between_two_polls_comes_with_the_second() {
    let mut world = World::polled().await;
    world.happen(Event::Revoke { instance: 0 }).await;
    world.dispatched().await;
    world.begin_poll(60_000).await;
    world.lines().await;
    assert_eq!(world.host.revoked, world.ended);
    assert_eq!(world.ended.len(), 1);
}

#[tokio::test]
async fn what_is_revoked_ends_a_long_poll() {
    let mut world = World::polled().await;
    world.begin_poll(60_000).await;
    let begun = Instant::now();
    world.happen(Event::Revoke { instance: 0 }).await;
    world.lines().await;
    assert_eq!(world.host.revoked, world.ended);
    assert!(begun.elapsed() < Duration::from_secs(50));
}
