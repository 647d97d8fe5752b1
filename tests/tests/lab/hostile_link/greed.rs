//! Guests that want more than there is for them.

use super::{Raw, Trial};
use crate::talker::{Talker, hello};
use anyhow::{Context, Result, ensure};
use moorline_lab::deployment::{External, PATIENCE, Plan, Programs};
use moorline_lab::wait;
use moorline_lab_load::frames::{get, last};
use moorline_shared::InstanceId;
use moorline_shared::api::operations::{OperationQuery, Outcome};
use moorline_shared::link::Kind;
use moorline_shared::link::body::{Code, Watch};
use moorline_shared::link::session::{DEFAULT_LIMITS, GuestEvent};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

/// How much more memory the daemon may hold after a million of something than after a few.
const A_LITTLE: u64 = 2 * 1024 * 1024;
/// How many connections of a guest the daemon keeps that say nothing, and a few that come and go meanwhile.
const SILENT: usize = 64 + 4;
/// How often a guest says that it knows nothing.
const HELLOS: usize = 200;
/// How long it takes at least from one session that takes another's place to the next.
const REPLACE_EVERY: Duration = Duration::from_secs(10);
/// Between two questions of a guest that was told to come back.
const BREATH: Duration = Duration::from_millis(10);

#[tokio::test]
async fn row_8_watches_over_the_bound_are_told_to_come_back() -> Result<()> {
    let trial = Trial::begin().await?;
    let guest = trial.guest("evil").await?;
    let attack = async {
        let mut raw = Raw::welcomed(&guest).await?;
        let watch = Watch {
            instance: None,
            prefix: "name".parse()?,
        };
        let bound = u32::from(DEFAULT_LIMITS.streams);
        for n in 0..bound + 5 {
            raw.say(&last(Kind::Watch, 2 * n + 1, &watch)).await?;
        }
        // Not asked for anything, the first ones bring what is there; the five too many bring BUSY.
        let mut kinds = std::collections::BTreeMap::new();
        while kinds.get(&(Kind::Busy as u8)) != Some(&5) {
            *kinds.entry(raw.first_answer().await?).or_insert(0) += 1;
        }
        ensure!(trial.session_of(&guest).await.is_ok(), "the guest was cut off");
        let mut talker = Talker::begin(&guest.socket()).await?;
        let streams: Vec<_> = (0..bound)
            .map(|_| talker.watch(None, "name"))
            .collect::<Result<_>>()?;
        for stream in &streams {
            let event = talker.event_of(*stream).await?;
            ensure!(
                matches!(event, GuestEvent::Batch { .. }),
                "{event:?} came on a watch"
            );
        }
        Ok(())
    };
    trial.withstands(attack).await
}

#[tokio::test]
async fn row_10_watches_begun_and_let_go_in_a_loop_leave_nothing() -> Result<()> {
    let trial = Trial::begin().await?;
    let guest = trial.guest("evil").await?;
    let attack = async {
        let mut talker = Talker::begin(&guest.socket()).await?;
        let mut base = 0;
        for round in 0..3_000 {
            let stream = talker.watch(None, "name")?;
            talker.cancel(stream).await?;
            // Behind it, so that the loop is never ahead of the host by more than a round.
            talker
                .get("name")
                .await?
                .map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
            if round == 500 {
                base = trial.memory()?;
            }
        }
        let grown = trial.memory()?.saturating_sub(base);
        ensure!(grown < A_LITTLE, "the daemon grew by {grown} bytes");
        Ok(())
    };
    trial.withstands(attack).await
}

/// Storms one guest's socket: it connects, says nothing or nonsense, and leaves.
async fn storm(guest: &External, connects: u32) -> Result<u32> {
    let (socket, mut connected) = (guest.socket(), 0);
    for n in 0..connects {
        // Where too many wait, the kernel refuses at once, which is the daemon's own bound at work.
        let Ok(stream) = UnixStream::connect(&socket).await else {
            tokio::task::yield_now().await;
            continue;
        };
        connected += 1;
        if n % 2 == 0 {
            let mut raw = Raw(stream);
            // The host may have hung up already.
            let _ = raw.say(&get(1, "name")).await;
        }
    }
    Ok(connected)
}

#[tokio::test]
async fn row_13_a_connect_storm_is_nobody_elses_business() -> Result<()> {
    let plan = Plan::new(Programs::build().await?).host("link", "connect_interval_ms = 100");
    let trial = Trial::with(plan).await?;
    let guest = trial.guest("evil").await?;
    let attack = async {
        let sockets = trial.sockets()?;
        let connected = storm(&guest, 20_000).await?;
        ensure!(connected > 10, "it was no storm: {connected} connections");
        let most = sockets + SILENT;
        let found = trial.sockets()?;
        ensure!(found <= most, "{found} sockets are open");
        // Another guest that comes now is served while the storm's rest waits.
        let newcomer = trial.guest("newcomer").await?;
        Talker::begin(&newcomer.socket())
            .await
            .context("another guest that comes now")?;
        trial.forgives(&guest).await
    };
    trial.withstands(attack).await
}

#[tokio::test]
async fn row_13_connections_that_say_nothing_are_few() -> Result<()> {
    let trial = Trial::with_many_connections().await?;
    let guest = trial.guest("evil").await?;
    let attack = async {
        let sockets = trial.sockets()?;
        let mut idle = Vec::new();
        for _ in 0..200 {
            idle.push(Raw::greeted(&guest).await?);
            let found = trial.sockets()?;
            ensure!(found <= sockets + SILENT, "{found} sockets are open");
        }
        idle.truncate(200 - SILENT);
        for raw in idle {
            raw.ends_at_once().await?;
        }
        trial.closes_down_to(sockets).await?;
        trial.forgives(&guest).await
    };
    trial.withstands(attack).await
}

#[tokio::test]
async fn row_17_a_guest_that_asks_for_unknown_things_has_a_budget() -> Result<()> {
    let trial = Trial::begin().await?;
    let guest = trial.guest("evil").await?;
    let attack = async {
        let mut talker = Talker::begin(&guest.socket()).await?;
        let (mut unknown, mut busy) = (0, 0);
        for n in 0..1_000_u32 {
            let mut id = [0xee; 16];
            id[..4].copy_from_slice(&n.to_be_bytes());
            match ask(&mut talker, InstanceId::from_bytes(id), "no/such/entry").await? {
                Answer::Unknown => unknown += 1,
                Answer::Busy => busy += 1,
            }
        }
        ensure!(
            unknown > 0 && busy > unknown,
            "{unknown} were asked upstream, {busy} were not"
        );
        // The same one again and again is asked upstream once.
        let one = InstanceId::from_bytes([0xdd; 16]);
        let filled = async {
            while ask(&mut talker, one, "x").await? == Answer::Busy {
                sleep(BREATH).await;
            }
            Ok::<_, anyhow::Error>(())
        };
        timeout(PATIENCE, filled)
            .await
            .context("the budget doesn't fill again")??;
        for _ in 0..100 {
            let answer = ask(&mut talker, one, "x").await?;
            ensure!(answer == Answer::Unknown, "the no is not remembered");
        }
        Ok(())
    };
    trial.withstands(attack).await
}

/// Each such HELLO takes the session away that is there, and has another begin.
#[tokio::test]
async fn row_17_a_guest_that_knows_nothing_again_and_again_is_written_of_seldom() -> Result<()> {
    let trial = Trial::with_many_connections().await?;
    let guest = trial.guest("evil").await?;
    let attack = async {
        let (begun, mut given) = (Instant::now(), None);
        for _ in 0..HELLOS {
            let mut says = hello();
            says.incarnation = None;
            let (mut talker, _) = Talker::dial_as(&guest.socket(), says).await?;
            talker.get("name").await?.ok();
            if given.is_none() {
                given = Some(talker.session().await?.token_id);
            }
        }
        let most = 2 + begun.elapsed().as_secs() / REPLACE_EVERY.as_secs();
        let made = sessions_made(&trial, guest.id).await?;
        ensure!(
            (2..=most).contains(&made),
            "{made} sessions were made for {HELLOS} HELLOs, and not 2 to {most}"
        );
        // As soon as it behaves it has one, and another than the first agent had.
        let (mut talker, _) = Talker::dial(&guest.socket()).await?;
        let now = talker.session().await?.token_id;
        ensure!(Some(&now) != given.as_ref(), "the first agent's token is good");
        trial.forgives(&guest).await
    };
    trial.withstands(attack).await
}

/// How many sessions the control plane has begun for an instance.
async fn sessions_made(trial: &Trial, of: InstanceId) -> Result<u64> {
    let query = OperationQuery {
        instance: Some(of),
        limit: Some(1_000),
        ..OperationQuery::default()
    };
    let page = trial.deployment.client().list_operations(&query).await?;
    let made = page
        .operations
        .iter()
        .filter(|record| record.api == "CreateInstanceSession" && record.outcome == Outcome::Done);
    Ok(made.count() as u64)
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Unknown,
    Busy,
}

async fn ask(talker: &mut Talker, instance: InstanceId, path: &str) -> Result<Answer> {
    let stream = talker.ask_get(Some(instance), path)?;
    match talker.event_of(stream).await? {
        GuestEvent::Busy(..) => Ok(Answer::Busy),
        GuestEvent::Refused(_, refused) if refused.code == Code::NotFound as u16 => Ok(Answer::Unknown),
        other => anyhow::bail!("{other:?} came for what isn't there"),
    }
}

#[tokio::test]
async fn row_22_a_guest_that_disappears_in_the_midst_of_everything_leaves_nothing() -> Result<()> {
    let trial = Trial::with_many_connections().await?;
    let large = "x".repeat(250_000);
    let guest = trial
        .deployment
        .attach("evil", &[("name", "evil"), ("large", &large)])
        .await?;
    let attack = async {
        let sockets = trial.sockets()?;
        for n in 0..60 {
            let (mut talker, _) = Talker::dial(&guest.socket()).await?;
            talker.watch(None, "")?;
            talker.put(guest.id, "half", &large).await?;
            talker.ask_get(None, "large")?;
            talker.ask_get(Some(trial.honest.id), "name")?;
            if n % 2 == 0 {
                talker.until("the snapshot", |mirror| mirror.at.is_some()).await?;
            }
            talker.flush().await?;
        }
        trial.closes_down_to(sockets).await?;
        let gone = async || {
            let status = trial.deployment.guest_status(guest.id).await?;
            status.connection.is_none().then_some(())
        };
        wait::until("the guest to have no connection", PATIENCE, gone).await?;
        trial.forgives(&guest).await
    };
    trial.withstands(attack).await
}
