//! Brings to disk what changed, without anybody waiting for it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use moorline_shared::{InstanceId, Revision};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::disk::{Disk, DiskError, Taken, Undone};
use super::load::Restored;
use super::pending::{Before, Handle, Pending, Urgency};
use crate::cache::Now;
use crate::causes::Causes;
use crate::link::{self, Ending, ShardsHandle};

/// The least time between two rounds: what changes meanwhile is written once.
const BETWEEN_ROUNDS: Duration = Duration::from_secs(1);
/// How much is written in the long run, whatever guests have changed: a view is written whole, however little of it
/// changed, and the machines need their disk themselves.
const BYTES_PER_SECOND: u32 = 8 * 1024 * 1024;
/// The least time after a round that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// How often an idle host writes down that it has heard of the control plane: what it has is at most so much younger than
/// the next daemon takes it for.
const BETWEEN_POSITIONS: Duration = Duration::from_secs(10);
/// How many views are written at once, and how many bytes: they are in memory twice meanwhile.
const VIEWS_AT_ONCE: usize = 64;
const BYTES_AT_ONCE: usize = 4 * 1024 * 1024;
/// For the last round, when the daemon ends.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// Writes what its [`Handle`] is told.
#[derive(Debug)]
pub struct Writer {
    disk: Arc<Disk>,
    handle: Handle,
    shards: ShardsHandle,
    last_round: Instant,
    /// How many bytes that wrote.
    written: usize,
    health: Health,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Good,
    Failing,
}

/// Why a round did not come to its end.
enum Failure {
    /// No shard can say what it has.
    Ending,
    Disk(DiskError),
}

impl From<Ending> for Failure {
    fn from(Ending: Ending) -> Self {
        Self::Ending
    }
}

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

/// Reads what an earlier daemon kept in `state`, with the key from the folder of systemd's `credentials` if it is there,
/// and has the shards begin with it. Blocks until it is read; the shards have it before anything that they are told later.
///
/// That there is nothing, or that it can't be read, is no error: it is fetched, and logged where something is wrong.
pub fn open(state: &Path, credentials: Option<&Path>, shards: &ShardsHandle) -> (Writer, Restored) {
    let disk = Disk::new(state.to_owned(), credentials.map(Path::to_owned));
    let mut writer = Writer {
        disk: Arc::new(disk),
        handle: Handle::default(),
        shards: shards.clone(),
        last_round: Instant::now(),
        written: 0,
        health: Health::Good,
    };
    let mut restored = writer.disk.load(link::now_and_time()).unwrap_or_else(|error| {
        writer.failed(&error);
        Restored::default()
    });
    writer
        .handle
        .update(|status| status.set_aside = restored.set_aside);
    if let Some(deployment) = &restored.deployment {
        tracing::info!(
            instances = restored.images.len(),
            cursor = restored.cursor.map(tracing::field::display),
            age_ms = restored.age_ms,
            "an earlier daemon's copy of the instances' data is there"
        );
        writer.handle.deployment(deployment);
        restored.hand_over(shards);
    }
    (writer, restored)
}

impl Writer {
    /// The way to tell it what changed.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Writes until it is cancelled, and then once more.
    pub async fn run(mut self, cancel: CancellationToken) {
        loop {
            let due = self.due();
            let round = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            // Cancel-safe: what was said is kept until it is taken, and a pause that is dropped is begun anew.
            tokio::select! {
                () = cancel.cancelled() => break,
                () = self.handle.said() => {}
                () = round => self.round().await,
            }
        }
        if timeout(DRAIN_PATIENCE, self.round()).await.is_err() {
            tracing::warn!("the disk takes too long: the next daemon fetches what is not on it");
        }
    }

    fn due(&self) -> Option<Instant> {
        let pause = match (self.handle.urgency(), self.health) {
            (Urgency::None, _) => return None,
            (Urgency::Position, Health::Good) => BETWEEN_POSITIONS,
            (Urgency::Views, Health::Good) => BETWEEN_ROUNDS,
            (Urgency::Position | Urgency::Views, Health::Failing) => AFTER_FAILURE,
        };
        let written = u32::try_from(self.written).unwrap_or(u32::MAX);
        let paid_off = Duration::from_secs(1) * written / BYTES_PER_SECOND;
        Some(self.last_round + pause.max(paid_off))
    }

    /// Writes what there is to write. What can't be written is kept for the next round.
    pub(super) async fn round(&mut self) {
        // What is heard after this is of a later cursor than the one that is taken.
        let now = link::now_and_time();
        let age_ms = self.shards.feed_clock().standing(now.moment).age_ms;
        let mut pending = self.handle.take();
        self.last_round = Instant::now();
        self.written = 0;
        match self.write(&mut pending, (age_ms, now)).await {
            Ok(()) => self.succeeded(),
            Err(Failure::Ending) => {}
            Err(Failure::Disk(error)) => {
                self.handle.give_back(pending);
                self.failed(&error);
            }
        }
    }

    /// Takes what is done out of `pending`, which was as old as `known` says.
    async fn write(&mut self, pending: &mut Pending, known: (u32, Now)) -> Result<(), Failure> {
        let Some(deployment) = pending.deployment.clone() else {
            return Ok(());
        };
        if pending.before == Before::Remove {
            self.blocking(Disk::clear).await??;
            self.handle.update(|status| status.revision = None);
            pending.before = Before::Keep;
        }
        let views = std::mem::take(&mut pending.views);
        self.write_views(&deployment, &views, &mut pending.views).await?;
        if let Some(cursor) = pending.cursor {
            self.write_position(deployment, cursor, known).await?;
            pending.cursor = None;
            self.handle.update(|status| status.revision = Some(cursor));
        }
        Ok(())
    }

    async fn write_views(
        &mut self,
        deployment: &str,
        views: &BTreeSet<InstanceId>,
        undone: &mut BTreeSet<InstanceId>,
    ) -> Result<(), Failure> {
        let mut first = Ok(());
        let (mut some, mut bytes) = (Vec::new(), 0);
        let mut rest = views.iter().peekable();
        while let Some(instance) = rest.next() {
            let taken = self.shards.take_image(*instance).await?;
            bytes += taken.as_ref().map_or(0, |taken| taken.image.bytes());
            some.push((*instance, taken));
            if rest.peek().is_some() && some.len() < VIEWS_AT_ONCE && bytes < BYTES_AT_ONCE {
                continue;
            }
            bytes = 0;
            if let Err(Undone { views, error }) = self.write_some(deployment, std::mem::take(&mut some)).await
            {
                undone.extend(views);
                first = first.and(Err(error));
            }
        }
        Ok(first?)
    }

    async fn write_some(
        &mut self,
        deployment: &str,
        some: Vec<(InstanceId, Option<Taken>)>,
    ) -> Result<(), Undone> {
        let views = some.iter().map(|(instance, _)| *instance).collect();
        let deployment = deployment.to_owned();
        let written = self.blocking(move |disk| disk.write(&deployment, some)).await;
        self.written += written.map_err(|error| Undone { views, error })??;
        Ok(())
    }

    async fn write_position(
        &self,
        deployment: String,
        cursor: Revision,
        known: (u32, Now),
    ) -> Result<(), DiskError> {
        let write = move |disk: &Disk| disk.write_position(&deployment, cursor, known);
        self.blocking(write).await?
    }

    /// Waits for the disk on a thread for that.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> T + Send + 'static,
    ) -> Result<T, DiskError> {
        let disk = Arc::clone(&self.disk);
        let done = tokio::task::spawn_blocking(move || work(&disk)).await;
        done.map_err(|_| DiskError::Panicked)
    }

    fn succeeded(&mut self) {
        if std::mem::replace(&mut self.health, Health::Good) == Health::Failing {
            tracing::info!("the instances' data are kept on disk again");
        }
        self.handle.update(|status| {
            status.error = None;
            status.written_at = link::time();
        });
    }

    /// Said once, however often it fails.
    fn failed(&mut self, error: &DiskError) {
        let said = Causes(error).to_string();
        if std::mem::replace(&mut self.health, Health::Failing) == Health::Good {
            tracing::error!(
                error = said,
                "the instances' data can't be kept on disk: they are served from memory, and the next daemon has to fetch them"
            );
        }
        self.handle.update(|status| status.error = Some(said));
    }
}
