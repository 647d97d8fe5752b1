//! The link against a host that is real down to the socket.

mod asks;
mod compare;
mod keys;
mod polls;

use std::time::{Duration, Instant};

use moorline_shared::Revision;
use moorline_shared::agent::LinkState;
use moorline_shared::link::body::Get;
use moorline_shared::link::session::{DEFAULT_LIMITS, Host};
use moorline_shared::link::{Kind, Moment, StreamId};

use super::driver::{Driver, ReadBuffer};
use super::endpoint::Stream;
use super::{AskFailure, Asking, Endpoint, Given, Line, attempt};
use crate::mirror::{Lookup, Mirror};
use crate::platform::now;
use crate::test_host::{HostState, OTHER, OWN, Order, Rig, TestHost, entry, run};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

fn value(rig: &Rig, path: &str) -> Option<Vec<u8>> {
    match rig.mirror.read().get(path, now()) {
        Lookup::Found(entry) => Some(entry.value().bytes().to_vec()),
        _ => None,
    }
}

fn foreign(path: &str) -> Get<'_> {
    Get {
        instance: Some(OTHER),
        path: path.into(),
        max_age_ms: None,
    }
}

#[test]
fn a_snapshot_comes_first_and_changes_after_it() {
    run(async {
        let rig = Rig::linked().await;
        assert_eq!(value(&rig, "a").as_deref(), Some(&b"one"[..]));
        rig.host.change(&[("a", Some(b"two")), ("b", Some(b"new"))]);
        rig.mirrored(3).await;
        assert_eq!(
            (value(&rig, "a").unwrap(), value(&rig, "b").unwrap()),
            (b"two".to_vec(), b"new".to_vec())
        );
        rig.host.change(&[("a", None)]);
        rig.mirrored(4).await;
        assert_eq!(value(&rig, "a"), None);
        assert_eq!(rig.host.with(|state| state.snapshots), 1);
        let hello = rig.host.with(|state| state.hellos[0].clone());
        assert_eq!((hello.applied, hello.incarnation), (None, None));
        assert!(hello.build.starts_with("moorline-agent "));
        assert_eq!(rig.line.identity().unwrap().instance, OWN);
    });
}

#[test]
fn a_large_snapshot_comes_whole() {
    run(async {
        let mut rig = Rig::without_host(crate::local::Settings::default()).await;
        let large = vec![b'x'; 250_000];
        rig.host.change(&[
            ("l/1", Some(&large)),
            ("l/2", Some(&large)),
            ("l/3", Some(&large)),
        ]);
        rig.start_host();
        rig.mirrored(2).await;
        assert_eq!(rig.mirror.read().bytes(), 750_000);
    });
}

#[test]
fn after_a_cut_the_mirror_reads_on_and_catches_up_without_a_snapshot() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.order(Order::Cut);
        rig.host.change(&[("a", Some(b"meanwhile"))]);
        assert_eq!(value(&rig, "a").as_deref(), Some(&b"one"[..]));
        rig.mirrored(3).await;
        assert_eq!(value(&rig, "a").as_deref(), Some(&b"meanwhile"[..]));
        let (hello, snapshots) = rig.host.with(|state| (state.hellos[1].clone(), state.snapshots));
        assert_eq!(
            (hello.applied, hello.incarnation),
            (Some(Revision::new(1, 2)), Some(7))
        );
        assert_eq!(snapshots, 1);
    });
}

#[test]
fn another_incarnation_drops_the_mirror() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.with(|state| {
            state.incarnation = 8;
            state.own.clear();
        });
        rig.host.order(Order::Cut);
        rig.host.change(&[("b", Some(b"new life"))]);
        rig.mirrored(3).await;
        assert_eq!(
            (value(&rig, "a"), value(&rig, "b")),
            (None, Some(b"new life".to_vec()))
        );
        assert_eq!(rig.host.with(|state| state.snapshots), 2);
    });
}

/// A host whose `HELLO_ACK` names somebody else, while the revision and the incarnation fit by chance: it believes that the
/// mirror is in step and sends nothing.
async fn taken_for_another(become_another: impl FnOnce(&mut HostState)) {
    let rig = Rig::linked().await;
    rig.host.with(|state| {
        state.own = [("b".parse().unwrap(), entry(2, b"another's"))].into();
        become_another(state);
    });
    rig.host.order(Order::Cut);
    rig.mirror
        .until(|mirror| matches!(mirror.get("b", now()), Lookup::Found(_)).then_some(()))
        .await;
    assert_eq!(value(&rig, "a"), None, "the old instance's entry is mixed in");
    let (hellos, snapshots) = rig.host.with(|state| (state.hellos.clone(), state.snapshots));
    let claims: Vec<_> = hellos
        .iter()
        .map(|hello| (hello.incarnation, hello.applied.map(|applied| applied.n)))
        .collect();
    assert_eq!(
        (claims, snapshots),
        (vec![(None, None), (Some(7), Some(2)), (None, None)], 2)
    );
}

#[test]
fn another_instance_at_the_same_revision_sends_a_snapshot_after_all() {
    run(taken_for_another(|state| state.instance = OTHER));
}

#[test]
fn another_deployment_at_the_same_revision_sends_a_snapshot_after_all() {
    run(taken_for_another(|state| state.authority = "elsewhere".into()));
}

#[test]
fn a_batch_that_builds_on_something_else_resets_and_asks_for_a_snapshot() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.order(Order::Gap);
        let hello = rig.host.until(|state| state.hellos.get(1).cloned()).await;
        assert_eq!((hello.incarnation, hello.applied), (None, None));
        rig.host.until(|state| (state.snapshots == 2).then_some(())).await;
        assert_eq!(value(&rig, "a").as_deref(), Some(&b"one"[..]));
    });
}

#[test]
fn hostile_bytes_end_the_connection_and_nothing_else() {
    run(async {
        let rig = Rig::linked().await;
        let header = |length: u32, kind: u8| [&length.to_le_bytes()[..], &[kind, 0, 0, 0, 0, 0]].concat();
        let trouble = [
            header(0, 3),
            header(u32::MAX, 3),
            header(4, 0xff),
            [header(3, Kind::Commit as u8), vec![1, 2, 3]].concat(),
            [header(1, Kind::Found as u8), vec![0xff]].concat(),
        ];
        for (i, bytes) in trouble.into_iter().enumerate() {
            rig.host.order(Order::Raw(bytes));
            rig.host
                .until(|state| (state.hellos.len() == i + 2).then_some(()))
                .await;
        }
        let revision = rig.host.change(&[("a", Some(b"still here"))]);
        rig.mirrored(revision.n).await;
        assert_eq!(value(&rig, "a").as_deref(), Some(&b"still here"[..]));
        let error = rig.line.status(now()).last_error.unwrap();
        assert!(error.contains("the session with the host failed: "), "{error}");
    });
}

#[test]
fn a_host_that_says_goaway_is_left_alone_as_long_as_it_asks() {
    run(async {
        let rig = Rig::linked().await;
        let asked = Instant::now();
        rig.host.order(Order::GoAway(700));
        rig.host
            .until(|state| (state.hellos.len() == 2).then_some(()))
            .await;
        assert!(
            asked.elapsed() >= Duration::from_millis(700),
            "{:?}",
            asked.elapsed()
        );
    });
}

#[test]
fn a_session_that_the_host_soon_ends_led_nowhere() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let host = TestHost::new(folder.path().join("host"));
        host.change(&[("a", Some(b"one"))]);
        let mut tasks = JoinSet::new();
        tasks.spawn_local(host.clone().serve(UnixListener::bind(&host.path).unwrap()));
        let endpoint = Endpoint::Unix(host.path.clone());
        for (order, led_anywhere) in [(Order::GoAway(0), false), (Order::Cut, true)] {
            let (line, given, stop) = (Line::new(&endpoint), Given::default(), CancellationToken::new());
            let mut buffer = ReadBuffer::default();
            let session = attempt(
                &endpoint,
                &line,
                &given,
                &mut buffer,
                Duration::from_secs(5),
                &stop,
            );
            let ending = async {
                given.mirror.until(Mirror::revision).await;
                host.order(order);
            };
            let (ended, ()) = tokio::join!(session, ending);
            assert_eq!(ended.led_anywhere, led_anywhere, "{:?}", ended.lost);
        }
    });
}

#[test]
fn a_host_that_comes_late_is_found() {
    run(async {
        let mut rig = Rig::without_host(crate::local::Settings::default()).await;
        assert_eq!(
            rig.line.get(Asking::Agent, &foreign("open/x")).await,
            Err(AskFailure::Away)
        );
        assert_eq!(rig.line.status(Moment(0)).state, LinkState::Connecting);
        rig.start_host();
        rig.mirrored(1).await;
        assert_eq!(rig.line.status(Moment(0)).state, LinkState::Connected);
    });
}

#[test]
fn the_link_stops_when_told() {
    run(async {
        let mut rig = Rig::linked().await;
        rig.stop.cancel();
        for _ in 0..2 {
            rig.tasks.join_next().await.unwrap().unwrap();
        }
    });
}

#[test]
fn an_entry_that_runs_out_at_the_host_goes_without_a_new_revision() {
    run(async {
        let rig = Rig::linked().await;
        rig.host.order(Order::RunOut("a"));
        rig.mirror
            .until(|mirror| matches!(mirror.get("a", now()), Lookup::Absent).then_some(()))
            .await;
        rig.host.change(&[("b", Some(b"goes on"))]);
        rig.mirrored(3).await;
        assert_eq!(rig.host.with(|state| state.hellos.len()), 1);
    });
}

#[test]
fn what_a_host_said_before_it_closed_is_heard_though_it_takes_nothing_more() {
    run(async {
        let (guest, mut host) = UnixStream::pair().unwrap();
        let (line, given) = (Line::new(&"test"), Given::default());
        let (mut buffer, stop) = (ReadBuffer::default(), CancellationToken::new());
        let mut driver = Driver::begin(Stream::Unix(guest), &line, &given, &mut buffer);
        let mut core = Host::new(DEFAULT_LIMITS, [9; 16], now());
        host.write_all(core.outbox().output()).await.unwrap();
        let welcomed = core.outbox().output().len();
        core.outbox().wrote(welcomed, now());
        tokio::select! {
            lost = driver.run(&stop) => panic!("{lost}"),
            hello = host.read_u8() => assert!(hello.is_ok()),
        }
        core.deny(now());
        core.go_away("not believed", 700, now());
        host.write_all(core.outbox().output()).await.unwrap();
        drop(host);
        // The agent has something to say at the same moment.
        line.core().applied(StreamId::SESSION, Revision::ZERO, now());
        let lost = driver.run(&stop).await;
        assert_eq!(lost.asked_wait(), Duration::from_millis(700), "{lost}");
    });
}

#[test]
fn nothing_of_a_frame_is_left_in_the_buffer() {
    let mut buffer = ReadBuffer::default();
    buffer.fill(b"secret");
    buffer.take(4);
    buffer.take(2);
    buffer.fill(&vec![b'x'; 32 * 1024]);
    buffer.take(32 * 1024 - 3);
    assert_eq!(buffer.room().iter().find(|byte| **byte != 0), None);
    buffer.take(3);
    assert_eq!(buffer.room().iter().find(|byte| **byte != 0), None);
}
