//! A guest's own change on its way through agent, host and control plane, over the same change put at the control plane.
//!
//! The guest is an agent that dials its host's socket as any guest of a VM with such a socket does. Between a real
//! guest's processor and its host's there is a VM exit more on each way, which is the hypervisor's and not ours.

use super::LOAD_CORE;
use super::TURNS;
use super::load::Loader;
use super::report::{Goal, Row};
use super::servers::{Agent, ControlPlane, Host, VALUE_BYTES};
use super::spread::against;
use crate::wait;
use anyhow::{Context as _, Result, ensure};
use moorline_lab_load::plan::{Load, Place, Round, Speaks, Target};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long the guest may take until it can prove itself.
const PATIENCE: Duration = Duration::from_secs(20);
/// For how long a turn runs before it counts, and for how long it counts, in milliseconds.
const WARM_UP_MS: u64 = 100;
const MEASURE_MS: u64 = 600;

/// What is written. A guest changes what it made; what it was given is changed by whoever gave it.
const WRITTEN: &str = "own/value";

const RELAY: &str = "relay";
const PUT: &str = "put";

/// The rows of a guest's changes. One change is under way at a time.
pub(super) async fn measure(
    loader: &Loader,
    control: &ControlPlane,
    host: &Host,
    agent: &Agent,
) -> Result<Vec<Row>> {
    let may_write = async || write_once(agent.socket()).ok();
    let known = wait::until("the guest to be known by its key", PATIENCE, may_write).await;
    // What the agent says in the end tells more than that there was no waiting for it.
    known.or_else(|_| write_once(agent.socket()))?;
    let load = Load {
        rounds: TURNS,
        warm_up_ms: WARM_UP_MS,
        measure_ms: MEASURE_MS,
        targets: vec![
            target(
                RELAY,
                host.process()?,
                Place::Unix(agent.socket().to_owned()),
                relays(),
            ),
            target(PUT, control.process()?, control.place(), puts(control).await?),
        ],
    };
    let measured = loader.drive(&load).await?;
    let of = |name| {
        measured
            .of(name)
            .with_context(|| format!("{name} was not measured"))
    };
    let (relay, put) = (of(RELAY)?, of(PUT)?);
    let times = |one: &Round, other: &Round| one.p50_us / other.p50_us;
    Ok(vec![
        Row::new("relay_p50_vs_put", "ratio", against(relay, put, times))?.with(Goal::AtMost(2.5)),
        Row::new("relay_p50", "us", p50(relay))?,
        Row::new("put_p50", "us", p50(put))?,
    ])
}

fn target(name: &str, server: u32, place: Place, requests: Vec<String>) -> Target {
    Target {
        name: name.into(),
        core: LOAD_CORE,
        server,
        speaks: Speaks::Http {
            requests: vec![requests],
        },
        connections: vec![place],
    }
}

/// Two values that take turns, so that every request changes something.
fn values() -> [String; 2] {
    ["a", "b"].map(|letter| letter.repeat(VALUE_BYTES))
}

fn relays() -> Vec<String> {
    values().map(|value| relay(&value)).into()
}

fn relay(value: &str) -> String {
    let length = value.len();
    format!("PUT /v1/data/{WRITTEN} HTTP/1.1\r\nHost: guest\r\nContent-Length: {length}\r\n\r\n{value}")
}

/// Of an instance that nobody follows, so that nothing but the change is in the way.
async fn puts(control: &ControlPlane) -> Result<Vec<String>> {
    let made = control.instances_elsewhere(1).await?;
    let (instance, token) = (made.first().context("there is no instance")?, control.token()?);
    let put = |value: String| {
        let body = format!("{{\"value\":\"{value}\"}}");
        format!(
            "PUT /v1/instances/{instance}/data/{WRITTEN} HTTP/1.1\r\nHost: control\r\n\
             Authorization: Bearer {token}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    Ok(values().map(put).into())
}

/// Fails while the agent has no key that the control plane knows.
fn write_once(socket: &Path) -> Result<()> {
    let [value, _] = values();
    let mut stream = UnixStream::connect(socket).context("connect to the agent")?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .context("bound how long an answer takes")?;
    stream
        .write_all(relay(&value).as_bytes())
        .context("write an entry")?;
    let mut answer = vec![0; 1024];
    let length = stream.read(&mut answer).context("read the answer")?;
    let answer = String::from_utf8_lossy(&answer[..length]);
    ensure!(answer.starts_with("HTTP/1.1 2"), "the agent says: {answer}");
    Ok(())
}

fn p50(turns: &[Round]) -> Vec<f64> {
    turns.iter().map(|round| round.p50_us).collect()
}
