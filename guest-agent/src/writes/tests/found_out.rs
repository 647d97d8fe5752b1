//! What a process left behind is found out by the next one.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use moorline_shared::InstanceId;
use moorline_shared::agent::WriteState;
use moorline_shared::api::IDEMPOTENCY_KEY;
use moorline_shared::entry::Value;
use moorline_shared::link::body::Relay;

use crate::test_host::{OTHER, OWN, Rig, run, until};
use crate::writes::{Mark, Marks, Writes};

fn mark(key: &str, by: InstanceId) -> Mark {
    Mark {
        key: key.parse().unwrap(),
        by,
        method: "PUT".to_owned(),
        target: format!("/v1/instances/{by}/data/a"),
    }
}

fn put(key: &str) -> Relay {
    Relay {
        method: "PUT".to_owned(),
        target: format!("/v1/instances/{OWN}/data/a"),
        headers: vec![(IDEMPOTENCY_KEY.to_owned(), key.to_owned())],
        length: 0,
        body: Value::from(Bytes::from_static(b"{\"value\":\"two\"}")),
    }
}

/// The next process on a machine where marks of an earlier one lie.
fn next(rig: &Rig, marks: &[Mark]) -> Rc<Writes> {
    let folder = rig.folder().join("left");
    let before = Marks::at(&folder);
    for mark in marks {
        before.put(mark);
    }
    Rc::new(Writes::new(
        Marks::at(&folder),
        Rc::clone(&rig.line),
        Rc::clone(&rig.backing.prover),
        Rc::clone(&rig.mirror),
        Duration::from_secs(20),
    ))
}

fn left(rig: &Rig) -> usize {
    std::fs::read_dir(rig.folder().join("left")).unwrap().count()
}

#[test]
fn a_process_finds_out_what_became_of_the_changes_of_the_one_before() {
    run(async {
        let mut rig = Rig::linked().await;
        rig.backing.prover.relay(&put("made")).await.unwrap();
        let writes = next(
            &rig,
            &[mark("made", OWN), mark("theirs", OTHER), mark("unheard-of", OWN)],
        );
        let states = |writes: &Writes| writes.open().iter().map(|open| open.state).collect::<Vec<_>>();
        assert_eq!(states(&writes), [WriteState::InDoubt; 3]);
        let (keeping, stop) = (Rc::clone(&writes), rig.stop.clone());
        rig.tasks.spawn_local(async move { keeping.keep(&stop).await });
        // What was made is known; what is another machine's is nobody's here; what the master has no record of may come
        // yet.
        until(|| writes.open().len() == 1).await;
        assert_eq!((left(&rig), states(&writes)), (1, vec![WriteState::InDoubt]));
        let state = async |key: &str| {
            let found = writes.status(&key.parse().unwrap()).await.unwrap();
            found.map(|found| found.state)
        };
        assert_eq!(state("made").await, Some(WriteState::Made));
        assert_eq!(state("unheard-of").await, Some(WriteState::InDoubt));
        assert_eq!(state("theirs").await, None);
        assert!(
            rig.host
                .with(|state| !state.recorded.contains_key(&"unheard-of".parse().unwrap()))
        );
    });
}

#[test]
fn a_mark_stays_while_the_host_is_away() {
    run(async {
        let mut rig = Rig::without_host(crate::test_host::settings()).await;
        let writes = next(&rig, &[mark("made", OWN)]);
        let (keeping, stop) = (Rc::clone(&writes), rig.stop.clone());
        rig.tasks.spawn_local(async move { keeping.keep(&stop).await });
        assert!(
            writes.status(&"made".parse().unwrap()).await.is_err(),
            "nobody knows who asks"
        );
        assert_eq!((left(&rig), writes.open().len()), (1, 1));
        rig.start_host();
        rig.backing.line.opened().await;
        rig.backing.prover.relay(&put("made")).await.unwrap();
        until(|| left(&rig) == 0).await;
        assert_eq!(writes.open(), []);
    });
}
