//! The folder with its key: opened at the start, or as soon as the file system lets it be. Everything here blocks.

use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;

use moorline_shared::{InstanceId, Revision};

use super::folder::{Folder, FolderError, Name, Unwritten};
use super::key::{CacheKey, KeyError, Salt};
use super::load::{self, Restored};
use super::mark::{BootId, Mark};
use super::position::Position;
use super::view::{self, Heading};
use crate::cache::{Image, Now};
use crate::vm::process;

/// What was taken of an instance's view, and how old it was then.
#[derive(Debug)]
pub struct Taken {
    /// What it shows.
    pub image: Image,
    /// How long ago it was known to be the present state, in milliseconds.
    pub age_ms: u32,
    /// When it was taken.
    pub now: Now,
}

/// Where the cache is kept.
#[derive(Debug)]
pub(super) struct Disk {
    state: PathBuf,
    credentials: Option<PathBuf>,
    opened: OnceLock<Opened>,
}

#[derive(Debug)]
struct Opened {
    folder: Folder,
    key: CacheKey,
    boot: BootId,
}

/// Why something is not on disk.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the host's boot can't be told")]
    Boot(#[source] io::Error),
    #[error("no random bytes")]
    Random(#[source] io::Error),
    #[error("the thread that writes panicked")]
    Panicked,
}

/// Views that are not on disk as they are.
#[derive(Debug)]
pub(super) struct Undone {
    pub(super) views: Vec<InstanceId>,
    /// Why not the first of them.
    pub(super) error: DiskError,
}

impl Undone {
    /// `later` is not done either. The first reason is the one that is told.
    fn join(so_far: &mut Option<Self>, later: Self) {
        match so_far {
            Some(first) => first.views.extend(later.views),
            None => *so_far = Some(later),
        }
    }
}

impl Disk {
    pub(super) fn new(state: PathBuf, credentials: Option<PathBuf>) -> Self {
        Self {
            state,
            credentials,
            opened: OnceLock::new(),
        }
    }

    fn opened(&self) -> Result<&Opened, DiskError> {
        if let Some(opened) = self.opened.get() {
            // Whoever empties the folder wants everything fetched anew, not nothing kept any more.
            opened.folder.make()?;
            return Ok(opened);
        }
        let opened = Opened {
            folder: Folder::open(&self.state)?,
            key: CacheKey::open(&self.state, self.credentials.as_deref())?,
            boot: BootId::from(&*process::boot_id().map_err(DiskError::Boot)?),
        };
        Ok(self.opened.get_or_init(|| opened))
    }

    pub(super) fn load(&self, now: Now) -> Result<Restored, DiskError> {
        let opened = self.opened()?;
        Ok(load::load(
            &opened.folder,
            &opened.key,
            &Mark::new(&opened.boot, now),
        )?)
    }

    /// Removes everything: first what says that the rest can be gone on from.
    pub(super) fn clear(&self) -> Result<(), DiskError> {
        let folder = &self.opened()?.folder;
        folder.remove(Name::Position)?;
        folder.sync()?;
        for instance in folder.instances()? {
            folder.remove(Name::View(instance))?;
        }
        Ok(folder.sync()?)
    }

    /// Has the disk show these views as they were taken; where there is nothing, it has nothing. Returns how many bytes that
    /// took.
    pub(super) fn write(
        &self,
        deployment: &str,
        views: Vec<(InstanceId, Option<Taken>)>,
    ) -> Result<usize, Undone> {
        let opened = match self.opened() {
            Ok(opened) => opened,
            Err(error) => {
                let views = views.into_iter().map(|(instance, _)| instance).collect();
                return Err(Undone { views, error });
            }
        };
        let (mut files, mut undone) = (Vec::new(), None);
        for (instance, taken) in views {
            let name = Name::View(instance);
            let done = match taken {
                None => opened.folder.remove(name).map_err(DiskError::from),
                Some(taken) => opened
                    .encode(deployment, taken)
                    .map(|file| files.push((name, file))),
            };
            // One that can't be done keeps no other from the disk.
            if let Err(error) = done {
                let views = vec![instance];
                Undone::join(&mut undone, Undone { views, error });
            }
        }
        let bytes = files.iter().map(|(_, file)| file.len()).sum();
        if let Err(unwritten) = opened.folder.replace(files) {
            Undone::join(&mut undone, opened.undone(unwritten));
        }
        undone.map_or(Ok(bytes), Err)
    }

    /// Has the disk say that all views on it show everything up to the cursor.
    pub(super) fn write_position(
        &self,
        deployment: &str,
        cursor: Revision,
        (age_ms, now): (u32, Now),
    ) -> Result<(), DiskError> {
        let opened = self.opened()?;
        let position = Position {
            deployment: deployment.to_owned(),
            cursor,
            taken: Mark::new(&opened.boot, now),
            age_ms: age_ms.into(),
        };
        let replaced = opened.folder.replace(vec![(Name::Position, position.encode())]);
        replaced.map_err(|unwritten| opened.undone(unwritten).error)
    }
}

impl Opened {
    fn encode(&self, deployment: &str, taken: Taken) -> Result<Vec<u8>, DiskError> {
        let mut salt = Salt::default();
        getrandom::fill(&mut salt).map_err(|error| DiskError::Random(io::Error::other(error)))?;
        let heading = Heading {
            deployment: deployment.to_owned(),
            taken: Mark::new(&self.boot, taken.now),
            age_ms: taken.age_ms.into(),
        };
        Ok(view::encode(taken.image, &heading, &self.key, salt))
    }

    fn undone(&self, unwritten: Unwritten) -> Undone {
        self.folder.clean(&unwritten.names);
        let views = unwritten.names.iter().filter_map(|name| match name {
            Name::View(instance) => Some(*instance),
            Name::Position => None,
        });
        Undone {
            views: views.collect(),
            error: unwritten.error.into(),
        }
    }
}
