//! The folder that keeps what is slow to make, between runs and outside the checkout.

use anyhow::{Context, Result};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The lab's cache folder: `$MOORLINE_LAB_CACHE`, else `$XDG_CACHE_HOME/moorline-lab`, else
/// `~/.cache/moorline-lab`.
///
/// It may be removed whenever no lab is running; everything in it is made again.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Creates the folder where it is missing. Fails when neither it nor a home folder to put it in can be had.
    pub fn open() -> Result<Self> {
        let folder = chosen_folder()?;
        fs::create_dir_all(&folder)
            .with_context(|| format!("create the lab's cache folder {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// Where `name` is kept, whether or not it is there yet.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join(name)
    }

    /// Waits until no other lab is changing the cache, and keeps others waiting until the lock is dropped.
    pub async fn lock(&self) -> Result<Lock> {
        let path = self.path("lock");
        let file = File::create(&path).with_context(|| format!("open {}", path.display()))?;
        let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await?;
        Ok(Lock {
            _file: locked.with_context(|| format!("lock {}", path.display()))?,
        })
    }

    /// A folder beside the finished ones in which something can be made; it is removed when dropped, unless
    /// [`Workshop::keep_as`] gives it its name.
    pub fn workshop(&self) -> Result<Workshop> {
        let folder = tempfile::Builder::new()
            .prefix("making-")
            .tempdir_in(&self.folder)
            .with_context(|| format!("create a folder in {}", self.folder.display()))?;
        Ok(Workshop {
            folder,
            cache: self.clone(),
        })
    }
}

/// Held by the one lab that may change the cache.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Something for the cache that is not finished yet, and so has no name that anybody would look under.
#[derive(Debug)]
pub struct Workshop {
    folder: TempDir,
    cache: Cache,
}

impl Workshop {
    /// Where to make it.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Gives the finished folder its name in the cache, in one step. What somebody else finished under that
    /// name meanwhile stays; both were made from the same.
    pub fn keep_as(self, name: impl AsRef<Path>) -> Result<PathBuf> {
        let place = self.cache.path(name);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        }
        // Made for one user only, but who may see the cache may see what is in it.
        fs::set_permissions(self.folder.path(), Permissions::from_mode(0o755))
            .with_context(|| format!("open {} to readers", self.folder.path().display()))?;
        match fs::rename(self.folder.path(), &place) {
            Err(error) if !place.is_dir() => {
                Err(error).with_context(|| format!("put {} in the cache", place.display()))
            }
            _ => Ok(place),
        }
    }
}

fn chosen_folder() -> Result<PathBuf> {
    if let Some(chosen) = std::env::var_os("MOORLINE_LAB_CACHE") {
        return Ok(chosen.into());
    }
    if let Some(caches) = std::env::var_os("XDG_CACHE_HOME") {
        return Ok(Path::new(&caches).join("moorline-lab"));
    }
    let home = std::env::home_dir().context("no home folder for the lab's cache; set MOORLINE_LAB_CACHE")?;
    Ok(home.join(".cache/moorline-lab"))
}
