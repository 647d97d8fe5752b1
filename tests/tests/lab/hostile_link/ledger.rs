//! Guests that try to have others charged for what is theirs, or not to be charged at all.

use super::Trial;
use crate::talker::Talker;
use anyhow::{Context, Result, ensure};
use moorline_client::Terms;
use moorline_lab::deployment::{PATIENCE, Plan, Programs};
use moorline_lab::wait;
use moorline_shared::InstanceId;
use moorline_shared::access::{AccessList, Clause, Rights, Subject};
use moorline_shared::api::data::{ListQuery, PutEntry};
use moorline_shared::host::Unregister;
use serde_json::json;

/// How many entries an instance may have here.
const MOST: usize = 24;
/// How many paths a guest changes at random, more than it may have, and how often.
const PATHS: u32 = 40;
const CHANGES: u32 = 300;

/// Numbers that look random and are the same in each run (Knuth's multiplier, as in MMIX).
fn random(seed: &mut u64, below: u32) -> u32 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    u32::try_from(*seed >> 33).unwrap_or(0) % below
}

/// What the control plane says of a change that the guest makes; `None` deletes.
async fn change(talker: &mut Talker, of: InstanceId, path: &str, body: Option<&str>) -> Result<u16> {
    let stream = match body {
        Some(body) => talker.change("PUT", of, path, body.as_bytes()).await?,
        None => talker.change("DELETE", of, path, &[]).await?,
    };
    Ok(talker.relayed(stream).await?.status)
}

async fn count(trial: &Trial, of: InstanceId) -> Result<usize> {
    let client = trial.deployment.client();
    let page = client.list_instance_data(of, &ListQuery::default()).await?;
    Ok(page.entries.len())
}

#[tokio::test]
async fn row_2_what_a_guest_makes_stays_its_own_and_ends_with_it() -> Result<()> {
    // The data of an instance that is no more are kept for a while, here for as short as can be.
    let plan = Plan::new(Programs::build().await?).control_setting("keep_terminated = 1");
    let trial = Trial::with(plan).await?;
    let (guest, heir) = (trial.guest("evil").await?, trial.guest("heir").await?);
    let attack = async {
        let mut talker = Talker::begin(&guest.socket()).await?;
        let mut other = Talker::begin(&heir.socket()).await?;
        let subject = Subject::Instance(heir.id);
        let rights = Rights::ALL;
        let access = AccessList::try_from(vec![Clause { subject, rights }])?;
        // A guest gives nothing away, and names no owner.
        for body in [
            json!({"value": "x", "owner": heir.id}),
            json!({"value": "x", "access": access}),
        ] {
            let status = change(&mut talker, guest.id, "handed", Some(&body.to_string())).await?;
            ensure!(status / 100 == 4, "{body} was answered by {status}");
        }
        let before = count(&trial, heir.id).await?;
        let handed = PutEntry {
            access: Some(access),
            ..PutEntry::value("handed".into())
        };
        let client = trial.deployment.client();
        client
            .put_instance_data(guest.id, &"handed".parse()?, &handed, &Terms::fresh())
            .await?;
        let found = other.get_of(Some(guest.id), "handed").await?;
        ensure!(found.is_ok(), "{found:?} came for what an operator handed out");
        let grown = json!({"value": "g".repeat(10_000)}).to_string();
        let status = change(&mut other, guest.id, "handed", Some(&grown)).await?;
        ensure!(status / 100 == 2, "a change by who may was answered by {status}");
        ensure!(count(&trial, heir.id).await? == before, "it is another's now");
        let manager = trial.deployment.register_socket()?;
        manager.unregister(&Unregister { instance: guest.id }).await?;
        trial.deployment.terminate(&[guest.id]).await?;
        let gone = async || other.get_of(Some(guest.id), "handed").await.ok()?.err();
        wait::until("what was handed out to end", PATIENCE, gone).await?;
        ensure!(count(&trial, heir.id).await? == before, "it was left to another");
        Ok(())
    };
    trial.withstands(attack).await
}

#[tokio::test]
async fn row_3_refused_and_repeated_changes_leave_a_true_count() -> Result<()> {
    let plan = Plan::new(Programs::build().await?)
        .control_setting(format!("limits.entries = {MOST}"))
        .host("link", "relays_per_second = 1000");
    let trial = Trial::with(plan).await?;
    let guest = trial.guest("evil").await?;
    let attack = async {
        let mut talker = Talker::begin(&guest.socket()).await?;
        let (mut seed, mut refused) = (3, 0);
        for _ in 0..CHANGES {
            let path = format!("p/{}", random(&mut seed, PATHS));
            let body = match random(&mut seed, 5) {
                0 => None,
                1 => Some("{\"value\": "),
                2 => Some("{\"value\": \"x\", \"ttl\": 0}"),
                _ => Some("{\"value\": \"x\"}"),
            };
            refused += u32::from(change(&mut talker, guest.id, &path, body).await? / 100 == 4);
        }
        ensure!(refused > CHANGES / 10, "only {refused} changes were refused");
        // By a recount there is room for so many more, and the ledger has to say the same.
        let left = MOST - count(&trial, guest.id).await?;
        for nth in 0..left {
            let status = change(
                &mut talker,
                guest.id,
                &format!("q/{nth}"),
                Some("{\"value\": \"x\"}"),
            )
            .await?;
            ensure!(
                status / 100 == 2,
                "{nth} of {left} more were taken, and then {status} came"
            );
        }
        let status = change(&mut talker, guest.id, "q/over", Some("{\"value\": \"x\"}")).await?;
        ensure!(status == 409, "one too many was answered by {status}");
        let counted = count(&trial, guest.id).await.context("count at the end")?;
        ensure!(counted == MOST, "there are {counted} entries");
        Ok(())
    };
    trial.withstands(attack).await
}
