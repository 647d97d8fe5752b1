//! One attacker among fifty honest guests: whatever it does, each of them goes on reading and hears of each change, on the
//! connection that it had before, and the daemon takes no more memory than is one guest's to take.
//!
//! The attackers are those of `cargo lab bench hostile` ([`Conduct`]), each a process of its own that attacks as fast as it
//! gets a core to. Here it is looked whether the honest ones get on at all, and there how well.

use crate::talker::Talker;
use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, future::try_join_all, stream};
use moorline_client::Terms;
use moorline_host::config::{CacheConfig, LinkConfig};
use moorline_lab::deployment::{Deployment, External, PATIENCE, Plan, Programs};
use moorline_lab::process::{Running, memory, tied};
use moorline_lab::wait;
use moorline_lab_load::belongings;
use moorline_lab_load::memory::{forget_peak, peak_bytes};
use moorline_lab_load::plan::{ATTACK, Acts, Attack, Conduct};
use moorline_shared::api::data::PutEntry;
use std::cell::Cell;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How many guests there are beside the one that attacks.
const HONEST: usize = 50;
/// How many of them are registered at once.
const AT_ONCE: usize = 8;
/// Within what time each answer and each change comes to an honest guest. The daemon takes a hundredth of it; the rest is
/// for a machine of two cores on which all of this runs beside other tests.
const BOUND: Duration = Duration::from_secs(10);
/// How many answers, and a change after each so many, an honest guest has had when it has got on.
const READS: u32 = 20;
const READS_PER_CHANGE: u32 = 10;
/// How often the attacker has done something by then: more than those attacks need that are let begin once a second only.
const ACTS: u64 = 12;

/// A host with an attacker and honest guests.
struct Crowd {
    /// What attacks, built before anybody is connected.
    program: PathBuf,
    deployment: Deployment,
    honest: Vec<External>,
    attacker: External,
}

impl Crowd {
    async fn gather() -> Result<Self> {
        let programs = Programs::build().await?;
        let program = programs.attacker().await?;
        let deployment = Plan::new(programs).start().await?;
        let names: Vec<_> = (0..HONEST).map(|nth| format!("honest-{nth}")).collect();
        let entries = [("name", "honest")];
        let attach = names.iter().map(|name| deployment.attach(name, &entries));
        let honest = stream::iter(attach).buffered(AT_ONCE).try_collect().await?;
        let entries = belongings();
        let entries: Vec<_> = entries.iter().map(|(path, value)| (&**path, &**value)).collect();
        let attacker = deployment.attach("evil", &entries).await?;
        Ok(Self {
            program,
            deployment,
            honest,
            attacker,
        })
    }

    /// Has the attacker do what it does, until it is dropped.
    fn attack(&self, conduct: Conduct) -> Result<Running> {
        let plan = Attack {
            guest: self.attacker.socket(),
            instance: self.attacker.id,
            conduct,
            within: None,
        };
        let folder = self.deployment.folder();
        let file = folder.join("attack.json");
        std::fs::write(&file, serde_json::to_vec(&plan)?).context("write what the attacker does")?;
        let mut command = tied(&self.program);
        command.arg(ATTACK).stdin(File::open(&file)?);
        Running::start("lab-load", &mut command, folder.join("attack.log"))
    }

    /// An honest guest until it is told to end: it reads, is changed by an operator now and then, and must hear of it.
    async fn be_honest(&self, guest: &External, talker: &mut Talker, life: &Life<'_>) -> Result<()> {
        for read in 1_u32.. {
            if life.over.is_cancelled() {
                break;
            }
            let found = timeout(BOUND, talker.get("name")).await;
            let found = found.context("an answer is late")??;
            let found = found.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
            ensure!(*found.value == *b"honest", "another value came");
            if read % READS_PER_CHANGE == 0 {
                let changed = timeout(BOUND, self.change(guest, talker, read)).await;
                changed.context("a change is late")??;
            }
            life.reads.set(read);
        }
        Ok(())
    }

    async fn change(&self, guest: &External, talker: &mut Talker, nth: u32) -> Result<()> {
        let value = nth.to_string();
        let put = PutEntry::value(value.as_str().into());
        let client = self.deployment.client();
        client
            .put_instance_data(guest.id, &"news".parse()?, &put, &Terms::fresh())
            .await?;
        let heard = |mirror: &crate::talker::Mirror| mirror.text("news").as_ref() == Some(&value);
        talker.until("its change", heard).await
    }

    /// Waits until every honest guest has got on, and the attacker too.
    async fn all_get_on(&self, lives: &[Life<'_>], attacker: &Running) -> Result<()> {
        let got_on = async || {
            let honest = lives.iter().all(|life| life.reads.get() >= READS);
            (honest && acts(attacker).done >= ACTS).then_some(())
        };
        let got_on = wait::until("all to get on", PATIENCE, got_on).await;
        got_on.with_context(|| {
            let least = lives.iter().map(|life| life.reads.get()).min();
            format!(
                "the attacker: {:?}, the slowest guest: {least:?} reads",
                acts(attacker)
            )
        })
    }
}

/// What an honest guest has had, and whether it is to end.
struct Life<'a> {
    reads: Cell<u32>,
    over: &'a CancellationToken,
}

/// How far an attacker came.
fn acts(attacker: &Running) -> Acts {
    let said = attacker.said();
    let told = said
        .lines()
        .rev()
        .find_map(|line| serde_json::from_str(line).ok());
    told.unwrap_or_default()
}

/// Puts an attacker beside fifty honest guests, each with a connection that has to last.
async fn beside(conduct: Conduct) -> Result<()> {
    let crowd = Crowd::gather().await?;
    let mut talkers = Vec::with_capacity(HONEST);
    for guest in &crowd.honest {
        talkers.push(Talker::begin(&guest.socket()).await?);
    }
    let daemon = crowd.deployment.host_pid().context("the daemon has ended")?;
    let base = memory(daemon, "Rss:")?;
    forget_peak(daemon)?;
    let attacker = crowd.attack(conduct)?;
    let over = CancellationToken::new();
    let life = || Life {
        reads: Cell::new(0),
        over: &over,
    };
    let lives: Vec<_> = std::iter::repeat_with(life).take(HONEST).collect();
    let honest = talkers.iter_mut().zip(&crowd.honest).zip(&lives);
    let honest = honest.map(|((talker, guest), life)| crowd.be_honest(guest, talker, life));
    let watched = async {
        let _over = over.clone().drop_guard();
        crowd.all_get_on(&lives, &attacker).await
    };
    let (_, ()) = tokio::try_join!(try_join_all(honest), watched)
        .with_context(|| format!("{}\n{}", attacker.last_words(), crowd.deployment.last_words()))?;
    bears(&crowd, daemon, base)
}

/// The daemon is the one that it was, nothing of it panicked, and it took no more than one guest may have it take.
fn bears(crowd: &Crowd, daemon: u32, base: u64) -> Result<()> {
    ensure!(
        crowd.deployment.host_pid() == Some(daemon),
        "the daemon is another one"
    );
    let said = crowd.deployment.host_said();
    ensure!(
        !said.contains("panicked"),
        "a part of the daemon panicked:\n{said}"
    );
    let cap = LinkConfig::default().guest_bytes(&CacheConfig::default());
    let grown = peak_bytes(daemon)?.saturating_sub(base);
    ensure!(grown < cap, "the daemon grew by {grown} bytes, and may by {cap}");
    Ok(())
}

macro_rules! rows {
    ($($name:ident: $conduct:ident,)*) => {
        $(
            #[tokio::test]
            async fn $name() -> Result<()> {
                Box::pin(beside(Conduct::$conduct)).await
            }
        )*
    };
}

rows! {
    row_1_and_3_one_of_many_writes_until_there_is_no_room: Writes,
    row_5_one_of_many_never_reads: NeverReads,
    row_6_one_of_many_writes_a_byte_now_and_then: HalfFrames,
    row_7_and_16_one_of_many_says_what_is_no_frame: BadFrames,
    row_8_and_10_one_of_many_begins_watches_and_lets_them_go: Watches,
    row_10_and_16_one_of_many_begins_sessions_and_leaves: Hellos,
    row_11_12_and_20_one_of_many_asks_for_odd_paths: OddPaths,
    row_13_one_of_many_connects_and_leaves: Connects,
    row_14_one_of_many_has_unsigned_requests_passed_on: Relays,
    row_17_one_of_many_asks_for_unknown_things: UnknownThings,
    row_18_one_of_many_lies_about_its_mirror: Lies,
    row_18_one_of_many_lists_everything: Lists,
    row_22_one_of_many_disappears: Disappears,
}
