//! Bytes that are no frames, and frames that have no place.

use super::{AT_ONCE, Raw, Trial};
use crate::talker::hello;
use anyhow::{Context, Result, ensure};
use moorline_lab_load::frames::{frame, get, header, last};
use moorline_shared::Revision;
use moorline_shared::link::Kind;
use moorline_shared::link::body::{Applied, Beat, Code, Credit, Ended};
use std::time::Instant;

const GET: u8 = Kind::Get as u8;
const HELLO: u8 = Kind::Hello as u8;
/// More than a rounding of the allocator, and nothing against 4 GiB.
const A_LITTLE: u64 = 2 * 1024 * 1024;

#[tokio::test]
async fn row_7_a_bad_header_ends_its_connection_before_anything_is_allocated() -> Result<()> {
    let trial = Trial::with_many_connections().await?;
    let guest = trial.guest("evil").await?;
    let before_hello = [
        ("length 0", header(0, HELLO, 0, 0)),
        ("length 4 GiB", header(u32::MAX, HELLO, 0, 0)),
        ("a HELLO of 1,025 bytes", header(1_025, HELLO, 0, 0)),
        ("an unknown kind", header(4, 0xff, 0, 0)),
        ("unknown flags", header(4, HELLO, 2, 0)),
    ];
    let after_hello = [
        ("length 0", header(0, GET, 1, 1)),
        ("length 4 GiB", header(u32::MAX, GET, 1, 1)),
        ("a byte over the longest body", header(16 * 1024 + 1, GET, 1, 1)),
        ("an unknown kind", header(4, 0, 1, 1)),
        ("unknown flags", header(4, GET, 0x80, 1)),
    ];
    let attack = async {
        let memory = trial.memory()?;
        for (what, bytes) in before_hello {
            let mut raw = Raw::dial(&guest).await?;
            raw.say(&bytes).await?;
            raw.ends_at_once()
                .await
                .with_context(|| format!("{what} before HELLO"))?;
        }
        for (what, bytes) in after_hello {
            let mut raw = Raw::welcomed(&guest).await?;
            raw.say(&bytes).await?;
            raw.ends_at_once()
                .await
                .with_context(|| format!("{what} after HELLO"))?;
        }
        ensure!(trial.faults(&guest).await? == 10, "not every fault was counted");
        let grown = trial.memory()?.saturating_sub(memory);
        ensure!(grown < A_LITTLE, "the daemon grew by {grown} bytes");
        trial.forgives(&guest).await
    };
    trial.withstands(attack).await
}

#[tokio::test]
async fn row_7_a_frame_that_has_no_place_ends_its_connection() -> Result<()> {
    let trial = Trial::with_many_connections().await?;
    let guest = trial.guest("evil").await?;
    let never = Revision::new(1, u64::MAX);
    let cases = [
        ("HELLO twice", frame(Kind::Hello, 0, 0, &hello())),
        (
            "APPLIED for what was never sent",
            frame(Kind::Applied, 0, 0, &Applied { revision: never }),
        ),
        (
            "APPLIED with a torn body",
            header(1, Kind::Applied as u8, 0, 0)
                .into_iter()
                .chain([0xff])
                .collect(),
        ),
        (
            "a frame that only hosts send",
            frame(Kind::Pong, 0, 1, &Beat { number: 1 }),
        ),
        ("a request on the session's stream", get(0, "name")),
        ("a request on a stream of the host's", get(2, "name")),
        ("a piece of a batch", frame(Kind::Part, 0, 0, &Beat { number: 1 })),
        ("a path that is no UTF-8", torn_path()),
        (
            "bytes behind a body",
            [header(3, Kind::Ping as u8, 0, 0).to_vec(), vec![1, 1, 1]].concat(),
        ),
        (
            "a body that ends too soon",
            [header(1, GET, 1, 1).to_vec(), vec![0]].concat(),
        ),
    ];
    let attack = async {
        for (what, bytes) in &cases {
            let mut raw = Raw::welcomed(&guest).await?;
            raw.say(bytes).await?;
            raw.ends_at_once().await.context(*what)?;
        }
        ensure!(
            trial.faults(&guest).await? == cases.len() as u64,
            "not every fault was counted"
        );
        let mut early = Raw::dial(&guest).await?;
        early.say(&get(1, "name")).await?;
        early.ends_at_once().await.context("a request before HELLO")?;
        trial.forgives(&guest).await
    };
    trial.withstands(attack).await
}

/// A GET whose path is an overlong spelling of a slash.
fn torn_path() -> Vec<u8> {
    // No instance, a path of two bytes, no age.
    let body = [0, 2, 0xc0, 0xaf, 0];
    [&header(5, GET, 1, 1), &body[..]].concat()
}

/// What names streams that aren't there is late, not wrong: such frames cross on the wire.
#[tokio::test]
async fn row_7_frames_that_may_have_crossed_on_the_wire_end_nothing() -> Result<()> {
    let trial = Trial::begin().await?;
    let guest = trial.guest("evil").await?;
    let attack = async {
        let mut raw = Raw::welcomed(&guest).await?;
        let session = trial.session_of(&guest).await?;
        let cancelled = Ended {
            code: Code::Cancelled as u16,
        };
        for stream in (1..2_000).step_by(2) {
            raw.say(&last(Kind::Cancel, stream, &cancelled)).await?;
            raw.say(&frame(Kind::Credit, 0, stream, &Credit { bytes: u32::MAX }))
                .await?;
        }
        // They are handled in their order, so an answer to what comes behind them means that they were.
        raw.say(&get(1, "name")).await?;
        let begun = Instant::now();
        let answer = raw.first_answer().await?;
        ensure!(begun.elapsed() < AT_ONCE, "the answer took {:?}", begun.elapsed());
        ensure!(
            answer == Kind::Found as u8,
            "kind {answer:#x} came instead of FOUND"
        );
        ensure!(
            trial.session_of(&guest).await? == session,
            "the guest was cut off"
        );
        Ok(())
    };
    trial.withstands(attack).await
}

#[tokio::test]
async fn row_7_a_guest_that_leaves_within_a_frame_leaves_nothing() -> Result<()> {
    let trial = Trial::with_many_connections().await?;
    let guest = trial.guest("evil").await?;
    let attack = async {
        let sockets = trial.sockets()?;
        let whole = get(1, "name");
        for cut in 1..whole.len() {
            let mut raw = Raw::welcomed(&guest).await?;
            raw.say(&whole[..cut]).await?;
            drop(raw);
            let mut raw = Raw::dial(&guest).await?;
            raw.say(&whole[..cut]).await?;
        }
        trial.closes_down_to(sockets).await?;
        trial.forgives(&guest).await
    };
    trial.withstands(attack).await
}
