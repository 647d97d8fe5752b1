//! Guests that write too slowly, or don't read.

use super::{LONGEST, Raw, Trial};
use crate::talker::hello;
use anyhow::{Context, Result, bail, ensure};
use futures_util::future::try_join_all;
use moorline_client::Terms;
use moorline_lab::deployment::External;
use moorline_lab_load::disk;
use moorline_lab_load::frames::{frame, get, header};
use moorline_shared::api::data::PutEntry;
use moorline_shared::link::Kind;
use moorline_shared::link::body::{Applied, Beat, Begin, Hello};
use moorline_shared::link::proof::proof;
use moorline_shared::link::session::{DEAD_MS, DEFAULT_LIMITS, PATIENCE_MS};
use std::ops::Range;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Interval, interval, timeout};
use tokio_util::sync::CancellationToken;

/// From the deadline on, until the daemon has looked at it and this machine has noticed.
const AFTERWARDS: Duration = Duration::from_secs(5);
/// What the answers for guests that don't read may take: their bounds, and the allocator's pieces.
const BOUND: u64 = 8 * 1024 * 1024;
/// More than the daemon takes from a guest that doesn't read, with the sockets' buffers.
const TOO_MUCH: usize = 16 * 1024 * 1024;

/// For how long the kernel's buffer may go on taking small frames after it took no large one.
const BUFFERED: Duration = Duration::from_secs(15);

/// When a deadline of so many milliseconds that begins now or a moment ago may be noticed.
fn around(deadline_ms: u64) -> Range<Duration> {
    let deadline = Duration::from_millis(deadline_ms);
    deadline.saturating_sub(Duration::from_secs(1))..deadline + AFTERWARDS
}

fn each_second() -> Interval {
    interval(Duration::from_secs(1))
}

/// Writes a byte each second until the host hangs up; answers with how long it had patience.
async fn byte_by_byte(mut raw: Raw, bytes: &[u8]) -> Result<Duration> {
    let begun = Instant::now();
    let mut clock = each_second();
    for byte in bytes {
        clock.tick().await;
        if raw.0.write_all(&[*byte]).await.is_err() {
            return Ok(begun.elapsed());
        }
    }
    bail!("the host took {} bytes in {:?}", bytes.len(), begun.elapsed())
}

/// Writes these bytes and nothing more; answers with how long the host had patience.
async fn silent_after(mut raw: Raw, bytes: &[u8]) -> Result<Duration> {
    raw.say(bytes).await?;
    raw.ended().await
}

#[tokio::test]
async fn row_6_a_frame_that_is_not_whole_in_time_ends_its_connection() -> Result<()> {
    let trial = Trial::begin().await?;
    let names = ["drip", "early-drip", "half", "header", "mute"];
    let guests = try_join_all(names.map(|name| trial.guest(name))).await?;
    let frame = get(1, "a/rather/long/path/to/be/said/byte/by/byte");
    let hello = frame_of_hello();
    let attack = async {
        let patience = tokio::try_join!(
            async { byte_by_byte(Raw::welcomed(&guests[0]).await?, &frame).await },
            async { byte_by_byte(Raw::dial(&guests[1]).await?, &hello).await },
            async { silent_after(Raw::welcomed(&guests[2]).await?, &frame[..5]).await },
            async {
                silent_after(
                    Raw::welcomed(&guests[3]).await?,
                    &header(100, Kind::Get as u8, 1, 1),
                )
                .await
            },
            async { silent_after(Raw::dial(&guests[4]).await?, &[]).await },
        )?;
        let all: [Duration; 5] = patience.into();
        for (name, took) in names.iter().zip(all) {
            ensure!(
                around(PATIENCE_MS).contains(&took),
                "'{name}' was hung up on after {took:?}"
            );
        }
        for guest in &guests {
            ensure!(
                trial.faults(guest).await? == 1,
                "the fault of {} was not counted",
                guest.id
            );
            trial.forgives(guest).await?;
        }
        Ok(())
    };
    trial.withstands(attack).await
}

fn frame_of_hello() -> Vec<u8> {
    frame(Kind::Hello, 0, 0, &hello())
}

/// Asks without ever reading until the host takes no more, and answers with when it hung up.
async fn only_ask(mut raw: Raw, path: &str) -> Result<Duration> {
    let begun = Instant::now();
    let mut written = 0;
    for stream in (1..u32::MAX).step_by(2) {
        let request = get(stream, path);
        let took = timeout(LONGEST, raw.0.write_all(&request)).await;
        if took.context("the host doesn't hang up")?.is_err() {
            return Ok(begun.elapsed());
        }
        written += request.len();
        ensure!(written < TOO_MUCH, "the host took {written} bytes of requests");
    }
    bail!("there are no more streams")
}

/// Says PING each second without ever reading, and answers with when the host hung up.
async fn only_ping(mut raw: Raw) -> Result<Duration> {
    let begun = Instant::now();
    let mut clock = each_second();
    loop {
        clock.tick().await;
        ensure!(begun.elapsed() < LONGEST, "the host doesn't hang up");
        if raw
            .say(&frame(Kind::Ping, 0, 0, &Beat { number: 1 }))
            .await
            .is_err()
        {
            return Ok(begun.elapsed());
        }
    }
}

/// Changes an entry of the guest's for as long as others do something, so that there is always more to push.
async fn keep_changing(trial: &Trial, guest: &External, until: &CancellationToken) -> Result<()> {
    let path = "large".parse()?;
    let mut clock = interval(Duration::from_millis(200));
    for round in 0_u8.. {
        clock.tick().await;
        if until.is_cancelled() {
            break;
        }
        let value = String::from(char::from(b'a' + round % 26)).repeat(200_000);
        let body = PutEntry::value((&*value).into());
        let client = trial.deployment.client();
        client
            .put_instance_data(guest.id, &path, &body, &Terms::fresh())
            .await?;
    }
    Ok(())
}

/// The most that the daemon takes beyond `base` while others do something.
async fn most_memory(trial: &Trial, base: u64, until: &CancellationToken) -> Result<u64> {
    let (mut most, mut clock) = (0, interval(Duration::from_millis(50)));
    while !until.is_cancelled() {
        clock.tick().await;
        most = most.max(trial.memory()?.saturating_sub(base));
    }
    Ok(most)
}

#[tokio::test]
async fn row_5_a_guest_that_never_reads_is_bounded_and_hung_up_on() -> Result<()> {
    let trial = Trial::begin().await?;
    let small = trial.guest("small").await?;
    let large = "x".repeat(250_000);
    let large = trial
        .deployment
        .attach("large", &[("name", "evil"), ("value", &large)])
        .await?;
    let pushed = trial.guest("pushed").await?;
    let attack = async {
        let (ask_small, ask_large) = (Raw::welcomed(&small).await?, Raw::welcomed(&large).await?);
        let ping = Raw::welcomed(&pushed).await?;
        // What one large change takes on its way is there once before it is measured.
        trial
            .deployment
            .client()
            .put_instance_data(
                pushed.id,
                &"large".parse()?,
                &PutEntry::value((&*"x".repeat(200_000)).into()),
                &Terms::fresh(),
            )
            .await?;
        let base = trial.memory()?;
        let done = CancellationToken::new();
        let attacks = async {
            let _done = done.clone().drop_guard();
            tokio::try_join!(
                only_ask(ask_small, "name"),
                only_ask(ask_large, "value"),
                only_ping(ping)
            )
        };
        let (patience, most, ()) = tokio::try_join!(
            attacks,
            most_memory(&trial, base, &done),
            keep_changing(&trial, &pushed, &done),
        )?;
        println!("hung up after {patience:?}; {} KiB more at most", most / 1024);
        let deadline = Duration::from_millis(DEAD_MS);
        let expected = deadline..deadline + AFTERWARDS + BUFFERED;
        for took in <[Duration; 3]>::from(patience) {
            ensure!(expected.contains(&took), "it was hung up on after {took:?}");
        }
        ensure!(most < BOUND, "the daemon grew by {most} bytes");
        for guest in [&small, &large, &pushed] {
            trial.forgives(guest).await?;
        }
        Ok(())
    };
    trial.withstands(attack).await
}

/// Says that it has applied its snapshot as soon as it knows the revision, having granted nothing of what is to come,
/// until the host hangs up.
async fn apply_what_was_not_sent(guest: &External) -> Result<()> {
    drop(Raw::welcomed(guest).await?);
    let (mut raw, nonce) = Raw::challenged(guest).await?;
    let key = disk::link_key(&guest.socket())?.context("the guest has a key")?;
    let proof = Some(proof(&key, &nonce));
    raw.say(&frame(Kind::Hello, 0, 0, &Hello { proof, ..hello() }))
        .await?;
    let begin: Begin = loop {
        let (stream, kind, body) = raw.next_whole_frame().await?;
        if (stream, kind) == (0, Kind::Begin as u8) {
            break postcard::from_bytes(&body)?;
        }
    };
    let credit = DEFAULT_LIMITS.credit;
    ensure!(begin.length > credit, "{} bytes go without credit", begin.length);
    let applied = Applied { revision: begin.to };
    raw.say(&frame(Kind::Applied, 0, 0, &applied)).await?;
    raw.ends_at_once().await
}

#[tokio::test]
async fn row_5_a_guest_that_has_applied_what_was_not_sent_is_hung_up_on() -> Result<()> {
    let trial = Trial::with_many_connections().await?;
    let large = "x".repeat(250_000);
    let entries = [("name", "evil"), ("one", &*large), ("two", &*large)];
    let guest = trial.deployment.attach("early", &entries).await?;
    let attack = async {
        let mut base = 0;
        for round in 1..=40 {
            apply_what_was_not_sent(&guest).await?;
            ensure!(trial.faults(&guest).await? == round, "round {round} is no fault");
            if round == 10 {
                base = trial.memory()?;
            }
        }
        let grown = trial.memory()?.saturating_sub(base);
        ensure!(grown < BOUND, "the daemon grew by {grown} bytes");
        trial.forgives(&guest).await
    };
    trial.withstands(attack).await
}
