//! Which generation of its VM each guest was when it last got a session, on disk: a snapshot that is restored while this
//! daemon is away, or has just begun, has to be noticed by the next one.
//!
//! There is one small file for each instance, of one life of its VM. It is written when that is new, and when a session
//! took another's place, which is as seldom as the table makes it. One file is written at a time.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use moorline_shared::InstanceId;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::causes::Causes;
use crate::vm::file::{self, Document, FileError, Head};

/// The version of the file's form that this daemon writes.
const VERSION: u32 = 1;
const EXTENSION: &str = "json";

/// Which generation of its VM a guest was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Generation {
    /// In which life of the VM.
    pub(super) incarnation: u64,
    /// What the VMM calls it.
    pub(super) id: [u8; 16],
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    instance: InstanceId,
    incarnation: u64,
    generation: [u8; 16],
}

impl Document for Record {
    fn head(&self) -> Head {
        let Self {
            version, instance, ..
        } = *self;
        Head { version, instance }
    }
}

/// The folder with them.
#[derive(Debug)]
pub struct Generations {
    folder: PathBuf,
    /// What is to be on disk and isn't yet; nothing for an instance whose file is to go.
    pending: BTreeMap<InstanceId, Option<Generation>>,
    /// One write at most.
    writes: JoinSet<()>,
}

impl Generations {
    /// The folder `generations` beneath the daemon's state folder; created where it is missing.
    ///
    /// # Errors
    /// [`FileError`] if it can't be created.
    pub fn open(state: &Path) -> Result<Self, FileError> {
        Ok(Self {
            folder: file::folder(state.join("generations"))?,
            pending: BTreeMap::new(),
            writes: JoinSet::new(),
        })
    }

    /// All that an earlier daemon kept. What can't be read is logged, and as if it had never been.
    pub(super) fn load(&self) -> BTreeMap<InstanceId, Generation> {
        let listed = fs::read_dir(&self.folder).inspect_err(|error| {
            tracing::warn!(%error, "can't list which generations guests were");
        });
        let paths = listed
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()));
        let ours = paths.filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION));
        let instances = ours.filter_map(|path| path.file_stem()?.to_str()?.parse().ok());
        instances
            .filter_map(|instance| Some((instance, self.load_one(instance)?)))
            .collect()
    }

    fn load_one(&self, instance: InstanceId) -> Option<Generation> {
        let version = VERSION;
        let loaded = file::load::<Record>(&self.path(instance), Head { version, instance });
        let record = loaded.unwrap_or_else(|error| {
            tracing::warn!(%instance, error = %Causes(&error), "it isn't known which generation a guest was");
            None
        })?;
        Some(Generation {
            incarnation: record.incarnation,
            id: record.generation,
        })
    }

    /// Has this on disk soon, or nothing.
    pub(super) fn keep(&mut self, instance: InstanceId, generation: Option<Generation>) {
        self.pending.insert(instance, generation);
        self.write_next();
    }

    /// A write is over, and the next one begun; nothing if there is none. Cancel-safe.
    pub(super) async fn wrote(&mut self) -> Option<()> {
        let wrote = self.writes.join_next().await?;
        if let Err(error) = wrote {
            tracing::error!(%error, "a write of a guest's generation was cut off");
        }
        self.write_next();
        Some(())
    }

    /// Waits until all of it is on disk.
    pub(super) async fn finish(&mut self) {
        while self.wrote().await.is_some() {}
    }

    fn write_next(&mut self) {
        if !self.writes.is_empty() {
            return;
        }
        if let Some((instance, generation)) = self.pending.pop_first() {
            self.writes
                .spawn(write(self.path(instance), instance, generation));
        }
    }

    fn path(&self, instance: InstanceId) -> PathBuf {
        self.folder.join(instance.to_string()).with_extension(EXTENSION)
    }
}

async fn write(path: PathBuf, instance: InstanceId, generation: Option<Generation>) {
    let written = match generation {
        Some(Generation { incarnation, id }) => {
            let record = Record {
                version: VERSION,
                instance,
                incarnation,
                generation: id,
            };
            file::keep(path, record).await
        }
        None => file::discard(path).await,
    };
    if let Err(error) = written {
        tracing::warn!(%instance, error = %Causes(&error), "can't keep which generation a guest is: a snapshot that is restored while the daemon is restarted goes unnoticed");
    }
}

#[cfg(test)]
mod tests {
    use super::{Generation, Generations};
    use moorline_shared::InstanceId;
    use std::collections::BTreeMap;

    const INSTANCE: InstanceId = InstanceId::from_bytes([7; 16]);
    const OTHER: InstanceId = InstanceId::from_bytes([8; 16]);

    #[tokio::test]
    async fn the_last_that_was_kept_is_there_for_the_next_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let mut generations = Generations::open(folder.path()).unwrap();
        assert_eq!(generations.load(), BTreeMap::new());
        let of = |n: u8| Generation {
            incarnation: 3,
            id: [n; 16],
        };
        for n in 0..100 {
            generations.keep(INSTANCE, Some(of(n)));
            assert!(generations.pending.len() <= 1 && generations.writes.len() == 1);
        }
        generations.keep(OTHER, Some(of(1)));
        generations.finish().await;
        let next = Generations::open(folder.path()).unwrap();
        assert_eq!(next.load(), BTreeMap::from([(INSTANCE, of(99)), (OTHER, of(1))]));
        generations.keep(INSTANCE, None);
        generations.finish().await;
        // What isn't a record is nobody's generation.
        std::fs::write(generations.path(OTHER), "{").unwrap();
        assert_eq!(next.load(), BTreeMap::new());
    }
}
