//! Batches and cancelled streams.

use super::*;

#[test]
fn one_batch_is_unacknowledged_at_most() {
    let mut pair = Pair::open(DEFAULT_LIMITS);
    pair.host.batch(StreamId::SESSION, batch(None, 1, 10));
    pair.host.batch(StreamId::SESSION, batch(Some(1), 2, 10));
    pair.settle(usize::MAX);
    assert_eq!(
        pair.heard.len(),
        1,
        "the second came before the first was applied"
    );
}

#[test]
fn many_small_batches_never_use_up_the_credit() {
    let mut pair = Pair::open(Limits {
        credit: 10_000,
        ..DEFAULT_LIMITS
    });
    let watch = Watch {
        instance: None,
        prefix: PathPrefix::ALL,
    };
    let watch = pair.guest.watch(&watch, pair.now).unwrap();
    pair.settle(usize::MAX);
    for stream in [StreamId::SESSION, watch] {
        for to in 1..20 {
            pair.host.batch(stream, batch(Some(to - 1), to, 3_000));
            pair.settle(usize::MAX);
            assert!(
                pair.host.can_push(stream),
                "batch {to} on stream {stream} got stuck"
            );
        }
    }
}

#[test]
fn a_watch_is_cancelled_in_the_middle_of_a_batch() {
    let mut pair = Pair::open(Limits {
        credit: 1_000,
        ..DEFAULT_LIMITS
    });
    let watch = Watch {
        instance: None,
        prefix: PathPrefix::ALL,
    };
    let stream = pair.guest.watch(&watch, pair.now).unwrap();
    pair.settle(usize::MAX);
    pair.host.batch(stream, batch(None, 1, 50_000));
    pair.step(2_000);
    pair.guest.cancel(stream, pair.now);
    pair.settle(100);
    assert_eq!(pair.heard, []);
    assert!(!pair.host.awaits(stream));
    assert_eq!(
        pair.guest.watch(&watch, pair.now),
        Ok(stream),
        "the number is free again"
    );
    pair.settle(usize::MAX);
    assert!(pair.host.awaits(stream));
}

#[test]
fn a_request_is_cancelled_before_it_left() {
    let mut pair = Pair::open(DEFAULT_LIMITS);
    let now = pair.now;
    let watch = pair.guest.watch(&all(), now).unwrap();
    pair.guest.cancel(watch, now);
    pair.settle(usize::MAX);
    assert!(
        !pair.host.awaits(watch),
        "the host kept a watch that nobody wants"
    );
    assert_eq!(
        pair.guest.watch(&all(), now),
        Ok(watch),
        "the number is free again"
    );
}

#[test]
fn an_answer_in_pieces_is_cancelled_before_any_left() {
    let mut pair = Pair::open(DEFAULT_LIMITS);
    let now = pair.now;
    pair.values.insert("v".into(), Bytes::from(vec![1; 100_000]));
    // Both come in one read, so that the host has the answer still before it when it hears of the cancel.
    let stream = pair.guest.get(&get("v"), now).unwrap();
    pair.guest.cancel(stream, now);
    pair.settle(usize::MAX);
    assert_eq!(pair.heard, []);
    assert_eq!(
        pair.guest.get(&get("w"), now),
        Ok(stream),
        "the number is free again"
    );
}

#[test]
fn a_watch_that_the_host_ends_may_be_acknowledged_once_more() {
    let mut pair = Pair::open(DEFAULT_LIMITS);
    let now = pair.now;
    let watch = pair.guest.watch(&all(), now).unwrap();
    pair.settle(usize::MAX);
    pair.host.batch(watch, batch(None, 1, 10));
    // The batch arrives and is acknowledged, and then the watch ends before the host reads that.
    pair.down.extend_from_slice(pair.host.outbox().output());
    let sent = pair.host.outbox().output().len();
    pair.host.outbox().wrote(sent, now);
    pair.guest_reads();
    pair.host.refuse(watch, Code::TooMuch, "no room", now);
    pair.settle(usize::MAX);
    assert!(matches!(
        &pair.heard[..],
        [GuestEvent::Batch { .. }, GuestEvent::Refused(..)]
    ));
}
