//! Daemons after one another at one folder, with real shards. [`schedules`] has them do it in any order.

mod schedules;

use std::path::{Path, PathBuf};

use moorline_shared::api::feed::{FeedEntry, FeedItem, View, ViewEntry, ViewId};
use moorline_shared::link::body::Freshness;
use tokio::sync::mpsc;

use super::{Kept, Restored, Writer, open};
use crate::cache::FeedBatch;
use crate::config::{CacheConfig, LinkConfig};
use crate::link::Shards;
use crate::link::tests::{entry, id, path, revision, spec, view};

/// The shards and the writer of a daemon.
struct Daemon {
    shards: Shards,
    writer: Writer,
    restored: Restored,
}

impl Daemon {
    fn begin(state: &Path) -> Self {
        let (asks, _) = mpsc::channel(1);
        let shards = Shards::start(&LinkConfig::default(), &CacheConfig::default(), None, &asks).unwrap();
        let (writer, restored) = open(state, None, shards.handle());
        Self {
            shards,
            writer,
            restored,
        }
    }

    /// What the feed does when a batch comes.
    async fn take(&self, from: Option<u64>, to: u64, items: Vec<FeedItem>) {
        let handle = self.writer.handle();
        handle.deployment("lab");
        let (from, to) = (from.map(revision), revision(to));
        let effects = self.shards.handle().apply(FeedBatch { from, to, items }).await;
        handle.changed(effects.unwrap().changed);
        handle.stands(to);
    }

    /// Instances 1 to 3, on disk at revision 5.
    async fn fill(&mut self) {
        let mut items: Vec<_> = (1..=3).map(|n| FeedItem::Instance(spec(n))).collect();
        items.extend((1..=3).map(|n| view(n, n, 5, &[("a", "x"), ("b", "y")])));
        self.take(None, 5, items).await;
        self.writer.round().await;
        assert_eq!(self.writer.handle().status().error, None);
    }

    async fn entries(&self, n: u8) -> Option<usize> {
        let all = self.shards.handle().status().await.unwrap();
        let one = all.into_iter().find(|guest| guest.instance == id(n))?;
        one.revision.map(|_| one.entries)
    }

    fn end(self) {
        self.shards.drain(0).unwrap();
    }
}

fn file_of(n: u8, state: &Path) -> PathBuf {
    state.join(format!("cache/{}.view", id(n)))
}

/// A folder with what a daemon left.
async fn left() -> tempfile::TempDir {
    let state = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::begin(state.path());
    assert_eq!(daemon.restored.deployment, None);
    daemon.fill().await;
    daemon.end();
    state
}

#[tokio::test]
async fn the_next_daemon_begins_with_what_the_last_one_had() {
    let state = left().await;
    let daemon = Daemon::begin(state.path());
    assert_eq!(daemon.restored.deployment.as_deref(), Some("lab"));
    assert_eq!(daemon.restored.cursor, Some(revision(5)));
    assert_eq!(
        daemon.restored.instances,
        [1, 2, 3].map(|n| (id(n), Kept::InStep))
    );
    assert_eq!(daemon.entries(2).await, Some(2));
    let standing = daemon.shards.handle().feed_clock().standing(crate::link::now());
    assert_eq!(standing.freshness, Freshness::Stale);
    daemon.end();
}

#[tokio::test]
async fn files_that_cant_be_used_are_set_aside_and_the_others_are_served() {
    let state = left().await;
    let (flipped, cut) = (file_of(1, state.path()), file_of(2, state.path()));
    let mut bytes = std::fs::read(&flipped).unwrap();
    bytes[100] ^= 0x20;
    std::fs::write(&flipped, &bytes).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&cut).unwrap();
    file.set_len(40).unwrap();
    let daemon = Daemon::begin(state.path());
    assert_eq!(daemon.restored.instances, [(id(3), Kept::InStep)]);
    assert_eq!(daemon.restored.cursor, Some(revision(5)));
    assert_eq!(daemon.writer.handle().status().set_aside, 2);
    assert_eq!(
        (daemon.entries(1).await, daemon.entries(3).await),
        (None, Some(2))
    );
    let kept = std::fs::read(state.path().join(format!("cache/corrupt/{}.view.1", id(1)))).unwrap();
    assert_eq!(kept, bytes);
    assert!(!flipped.exists() && !cut.exists());
    daemon.end();
}

#[tokio::test]
async fn without_the_position_everything_is_served_as_old_as_it_may_be() {
    let state = left().await;
    std::fs::write(state.path().join("cache/position"), "").unwrap();
    let daemon = Daemon::begin(state.path());
    assert_eq!(daemon.restored.cursor, None);
    assert_eq!(daemon.restored.deployment.as_deref(), Some("lab"));
    assert_eq!(daemon.entries(1).await, Some(2));
    daemon.end();
}

#[tokio::test]
async fn what_a_newer_release_wrote_stays_until_it_is_written_anew() {
    let state = left().await;
    let newer = super::frame::wrap(super::frame::Kind::View, 2, b"what nobody knows yet");
    std::fs::write(file_of(1, state.path()), &newer).unwrap();
    let mut daemon = Daemon::begin(state.path());
    assert_eq!(daemon.restored.instances.len(), 2);
    assert_eq!(daemon.writer.handle().status().set_aside, 0);
    assert_eq!(std::fs::read(file_of(1, state.path())).unwrap(), newer);
    daemon.fill().await;
    daemon.end();
    assert_ne!(std::fs::read(file_of(1, state.path())).unwrap(), newer);
}

#[tokio::test]
async fn an_instance_that_is_gone_leaves_nothing() {
    let state = left().await;
    let mut daemon = Daemon::begin(state.path());
    let gone = FeedItem::InstanceGone { instance: id(1) };
    daemon.take(Some(5), 6, vec![gone]).await;
    daemon.writer.round().await;
    assert!(!file_of(1, state.path()).exists() && file_of(2, state.path()).exists());
    daemon.end();
    let daemon = Daemon::begin(state.path());
    assert_eq!(
        (daemon.restored.instances.len(), daemon.restored.cursor),
        (2, Some(revision(6)))
    );
    daemon.end();
}

#[tokio::test]
async fn another_deployment_leaves_nothing_of_the_one_before() {
    let state = left().await;
    let mut daemon = Daemon::begin(state.path());
    daemon.writer.handle().deployment("another");
    daemon.writer.round().await;
    daemon.end();
    let daemon = Daemon::begin(state.path());
    assert_eq!(
        (
            daemon.restored.deployment.as_deref(),
            daemon.restored.instances.len()
        ),
        (None, 0)
    );
    daemon.end();
}

#[tokio::test]
async fn a_view_of_another_deployment_among_the_others_is_set_aside() {
    let (state, other) = (left().await, tempfile::tempdir().unwrap());
    std::fs::copy(state.path().join("cache.key"), other.path().join("cache.key")).unwrap();
    let mut daemon = Daemon::begin(other.path());
    let items = vec![FeedItem::Instance(spec(1)), view(1, 1, 9, &[("a", "z")])];
    daemon.take(None, 9, items).await;
    // The last word on whose it is counts.
    daemon.writer.handle().deployment("another");
    daemon.writer.handle().changed([id(1)]);
    daemon.writer.round().await;
    daemon.end();
    std::fs::copy(file_of(1, other.path()), file_of(1, state.path())).unwrap();
    let daemon = Daemon::begin(state.path());
    assert_eq!(daemon.restored.instances, [2, 3].map(|n| (id(n), Kept::InStep)));
    assert_eq!(daemon.writer.handle().status().set_aside, 1);
    daemon.end();
}

#[tokio::test]
async fn while_the_disk_refuses_guests_are_served_and_then_everything_is_written() {
    let state = tempfile::tempdir().unwrap();
    std::fs::write(state.path().join("cache"), "in the way").unwrap();
    let mut daemon = Daemon::begin(state.path());
    let handle = daemon.writer.handle();
    assert!(handle.status().error.is_some());
    daemon
        .take(
            None,
            5,
            vec![FeedItem::Instance(spec(1)), view(1, 1, 5, &[("a", "x")])],
        )
        .await;
    daemon.writer.round().await;
    let status = handle.status();
    assert_eq!((status.unwritten, status.written_at), (1, None));
    assert!(status.error.unwrap().contains("cache"));
    assert_eq!(daemon.entries(1).await, Some(1));
    std::fs::remove_file(state.path().join("cache")).unwrap();
    daemon.writer.round().await;
    let status = handle.status();
    assert_eq!((status.unwritten, status.error), (0, None));
    assert!(status.written_at.is_some() && file_of(1, state.path()).exists());
    daemon.end();
}

#[tokio::test]
async fn views_that_are_too_large_to_be_written_together_are_all_written() {
    let state = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::begin(state.path());
    let large = "x".repeat(200 * 1024);
    let entries = ["a", "b", "c", "d", "e"].map(|at| (at, &*large));
    let mut items: Vec<_> = (1..=12).map(|n| FeedItem::Instance(spec(n))).collect();
    items.extend((1..=12).map(|n| view(n, n, 5, &entries)));
    daemon.take(None, 5, items).await;
    daemon.writer.round().await;
    assert_eq!(daemon.writer.handle().status().revision, Some(revision(5)));
    daemon.end();
    let daemon = Daemon::begin(state.path());
    assert_eq!(
        (daemon.restored.instances.len(), daemon.entries(12).await),
        (12, Some(5))
    );
    daemon.end();
}

/// The position would say that the view that could not be written shows everything.
#[tokio::test]
async fn the_position_waits_for_the_last_view() {
    let state = left().await;
    let mut daemon = Daemon::begin(state.path());
    let position = || std::fs::read(state.path().join("cache/position")).unwrap();
    let before = position();
    std::fs::remove_file(file_of(1, state.path())).unwrap();
    std::fs::create_dir(file_of(1, state.path())).unwrap();
    let change = |n: u8| FeedItem::Entry {
        view: ViewId::own(id(n)),
        path: path("a"),
        entry: Some(entry(6, "six")),
    };
    daemon.take(Some(5), 6, vec![change(1), change(2)]).await;
    daemon.writer.round().await;
    assert_eq!(
        (position(), daemon.writer.handle().status().unwritten),
        (before.clone(), 1)
    );
    std::fs::remove_dir(file_of(1, state.path())).unwrap();
    daemon.writer.round().await;
    assert_ne!(position(), before);
    daemon.end();
}

#[tokio::test]
async fn a_file_that_cant_be_removed_keeps_no_other_from_the_disk() {
    let state = left().await;
    let mut daemon = Daemon::begin(state.path());
    std::fs::remove_file(file_of(1, state.path())).unwrap();
    std::fs::create_dir(file_of(1, state.path())).unwrap();
    let two = || std::fs::read(file_of(2, state.path())).unwrap();
    let before = two();
    let change = FeedItem::Entry {
        view: ViewId::own(id(2)),
        path: path("a"),
        entry: Some(entry(6, "six")),
    };
    let gone = FeedItem::InstanceGone { instance: id(1) };
    daemon.take(Some(5), 6, vec![gone, change]).await;
    daemon.writer.round().await;
    assert_ne!(two(), before);
    let status = daemon.writer.handle().status();
    assert_eq!(
        (status.unwritten, status.revision),
        (1, None),
        "the position waits for what is not removed"
    );
    assert!(status.error.unwrap().contains(&id(1).to_string()));
    daemon.end();
}

#[tokio::test]
async fn a_view_that_lost_changes_says_so_on_disk_until_it_came_whole() {
    let state = left().await;
    let mut daemon = Daemon::begin(state.path());
    daemon.shards.handle().lose(ViewId::own(id(1)), revision(6));
    daemon.writer.handle().changed([id(1)]);
    daemon.writer.round().await;
    daemon.end();
    let mut daemon = Daemon::begin(state.path());
    assert_eq!(daemon.restored.instances[0], (id(1), Kept::Behind));
    assert_eq!(daemon.entries(1).await, Some(2));
    daemon
        .take(Some(6), 7, vec![view(1, 1, 7, &[("a", "x"), ("b", "y")])])
        .await;
    daemon.writer.handle().changed([id(1)]);
    daemon.writer.round().await;
    daemon.end();
    let daemon = Daemon::begin(state.path());
    assert_eq!(daemon.restored.instances[0], (id(1), Kept::InStep));
    daemon.end();
}

#[tokio::test]
async fn secrets_are_in_no_file_and_are_there_again() {
    let state = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::begin(state.path());
    let secret = FeedEntry {
        secret: true,
        ..entry(5, "hunter2-of-the-cache")
    };
    let whole = View {
        view: ViewId::own(id(1)),
        revision: revision(5),
        entries: vec![ViewEntry {
            path: path("db/password"),
            entry: secret,
        }],
    };
    daemon
        .take(None, 5, vec![FeedItem::Instance(spec(1)), FeedItem::View(whole)])
        .await;
    daemon.writer.round().await;
    daemon.end();
    let file = std::fs::read(file_of(1, state.path())).unwrap();
    let has = |text: &[u8]| file.windows(text.len()).any(|window| window == text);
    assert!(has(b"db/password") && !has(b"hunter2"));
    let daemon = Daemon::begin(state.path());
    let taken = daemon.shards.handle().take_image(id(1)).await.unwrap().unwrap();
    let (_, entry) = &taken.image.entries[0];
    assert!(entry.secret);
    assert_eq!(entry.value.text(), Some("hunter2-of-the-cache"));
    daemon.end();
    // With another key it is as if it had never been.
    std::fs::write(state.path().join("cache.key"), "09".repeat(32)).unwrap();
    let daemon = Daemon::begin(state.path());
    assert_eq!(
        (
            daemon.restored.instances.len(),
            daemon.writer.handle().status().set_aside
        ),
        (0, 1)
    );
    daemon.end();
}
