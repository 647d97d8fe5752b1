//! Keeps part of the mirror in a file, so that programs can read it after a reboot while the host is away.
//!
//! [`Keeper::keep`] is the one task. Right after the start the host's own data are usually a moment away; if they are not,
//! the mirror begins with what the file has, unless the host has said meanwhile that this is another machine. Later the
//! file is written when what it keeps has changed, a few seconds after that so that many changes are one write, and once
//! more at the end. While nothing changes and the disk takes what it is given, nothing wakes up; after a machine that died
//! what was kept is therefore taken for older than it is, never for younger.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use moorline_shared::PathPrefix;
use moorline_shared::agent::Identity;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::files;
use crate::link::Line;
use crate::mirror::{Compacted, Cursor, Kept, Live, MAX_FILE_BYTES, Mirror, Origin, Refusal, Unreadable};
use crate::platform::stamp;

/// The file's name in the folder of what the agent keeps.
const FILE: &str = "mirror";

/// Keeps the entries below some prefixes on disk. It belongs to one thread.
#[derive(Debug)]
pub struct Keeper {
    file: PathBuf,
    below: Vec<PathPrefix>,
    line: Rc<Line>,
    mirror: Rc<Live>,
    pace: Pace,
    /// Whether the last write failed, of which is told once.
    failed: Cell<bool>,
}

/// How long a keeper lets others act first.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long the host may take before programs are shown what was kept.
    pub first_wait: Duration,
    /// How long changes are gathered before they are written.
    pub gathering: Duration,
    /// How long it is until what could not be written is written again.
    pub after_failure: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first_wait: Duration::from_secs(1),
            gathering: Duration::from_secs(3),
            after_failure: Duration::from_mins(1),
        }
    }
}

/// Whether the disk has what the mirror does, as far as that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Yes,
    /// The disk took nothing.
    No,
}

/// Why what was kept is not used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("it can't be read")]
    Read(#[source] io::Error),
    #[error("it is longer than {MAX_FILE_BYTES} bytes")]
    TooLong,
    #[error(transparent)]
    Content(#[from] Unreadable),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Keeper {
    /// One that keeps what the mirror has below `below`, in a file of `folder`.
    pub fn new(folder: &Path, below: Vec<PathPrefix>, line: Rc<Line>, mirror: Rc<Live>, pace: Pace) -> Self {
        Self {
            file: folder.join(FILE),
            below,
            line,
            mirror,
            pace,
            failed: Cell::default(),
        }
    }

    /// Shows what was kept if the host is away, and keeps what it gives from then on, until `stop` is cancelled and the last
    /// is written. If nothing is to be kept, what is there from before is removed. Dropping the future leaves the file as it
    /// was last written.
    pub async fn keep(&self, stop: &CancellationToken) {
        if self.below.is_empty() {
            return self.remove();
        }
        stop.run_until_cancelled(self.begin()).await;
        let mut seen = None;
        while let Some(change) = stop.run_until_cancelled(self.change(&mut seen)).await {
            // To its end, whatever is cancelled: two writes at once would take each other's file.
            match self.write().await {
                Written::Yes => seen = Some(change),
                Written::No => {
                    stop.run_until_cancelled(sleep(self.pace.after_failure)).await;
                }
            }
        }
        self.write().await;
    }

    /// Removes what is there from before, set aside and half written too.
    fn remove(&self) {
        for file in [self.file.clone(), self.aside(), files::beside(&self.file)] {
            if let Err(error) = files::remove(&file) {
                tracing::warn!(%error, file = %file.display(), "what was kept of the mirror can't be removed");
            }
        }
    }

    /// Begins with what was kept, once the host has let wait for its data.
    async fn begin(&self) {
        let given = self.mirror.until(Mirror::applied);
        if timeout(self.pace.first_wait, given).await.is_ok() {
            return;
        }
        match self.restore() {
            Ok(()) => {}
            Err(Unusable::Read(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(newer @ Unusable::Content(Unreadable::Newer(_))) => {
                // Nothing is wrong with it: the release that wrote it may be back before the host is.
                tracing::warn!(reason = %newer, file = %self.file.display(), "what was kept of the mirror is not shown");
            }
            Err(unusable) => self.set_aside(&unusable),
        }
    }

    fn restore(&self) -> Result<(), Unusable> {
        let kept = read(&self.file)?;
        if self.line.identity().is_some_and(|own| !is_of(&kept.of, &own)) {
            tracing::info!("what was kept of the mirror is another machine's, and is not shown");
            return Ok(());
        }
        let kept = kept.within(&self.below);
        if kept.below.is_empty() {
            return Ok(());
        }
        let (of, revision) = (kept.of.clone(), kept.revision);
        self.mirror.restore(kept, &stamp())?;
        self.line.remember(of);
        tracing::info!(%revision, "the host's data have not come yet: showing what was kept");
        Ok(())
    }

    fn aside(&self) -> PathBuf {
        self.file.with_added_extension("unusable")
    }

    /// What can't be used now is left for people to look at, and out of the way.
    fn set_aside(&self, unusable: &Unusable) {
        let aside = self.aside();
        let cause = std::error::Error::source(unusable).map(ToString::to_string);
        tracing::error!(
            reason = %unusable, cause, file = %self.file.display(), aside = %aside.display(),
            "what was kept of the mirror can't be used, and is set aside"
        );
        if let Err(error) = fs::rename(&self.file, &aside) {
            tracing::warn!(%error, file = %self.file.display(), "it stays where it is until the mirror is kept anew");
        }
    }

    /// Waits until something is to be written, and returns what is seen then. What could not be written is as good as
    /// changed. Cancel-safe.
    async fn change(&self, seen: &mut Option<Cursor>) -> Cursor {
        self.mirror
            .until(|mirror| self.is_due(mirror, seen).then_some(()))
            .await;
        sleep(self.pace.gathering).await;
        self.mirror.read().cursor()
    }

    /// Whether something of what is kept has changed behind `seen`, which follows; also where nobody can tell any more.
    fn is_due(&self, mirror: &Mirror, seen: &mut Option<Cursor>) -> bool {
        if mirror.applied().is_none() {
            return false;
        }
        loop {
            let Some(cursor) = *seen else {
                return true;
            };
            match mirror.next_change(cursor) {
                Err(Compacted { .. }) => return true,
                Ok(None) => return false,
                Ok(Some((change, next))) => {
                    if self
                        .below
                        .iter()
                        .any(|prefix| change.below(prefix).next().is_some())
                    {
                        return true;
                    }
                    *seen = Some(next);
                }
            }
        }
    }

    /// Writes what there is, if the host gave it. Another thread waits for the disk, so that the host is heard meanwhile.
    async fn write(&self) -> Written {
        let Some(own) = self.line.identity() else {
            return Written::Yes;
        };
        let kept = Kept::of_mirror(&self.mirror.read(), origin(own), &self.below, stamp());
        let Some(kept) = kept else {
            return Written::Yes;
        };
        let file = self.file.clone();
        let writing = tokio::task::spawn_blocking(move || files::replace(&file, &kept.encode()));
        let written = writing.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let failed = self.failed.replace(written.is_err());
        let Err(error) = written else {
            return Written::Yes;
        };
        if !failed {
            tracing::warn!(
                %error, file = %self.file.display(),
                "the mirror can't be kept on disk: after a reboot there is nothing to read while the host is away"
            );
        }
        Written::No
    }
}

fn origin(own: Identity) -> Origin {
    Origin {
        instance: own.instance,
        incarnation: own.incarnation,
        authority: own.authority,
    }
}

fn is_of(of: &Origin, own: &Identity) -> bool {
    *of == origin(own.clone())
}

fn read(file: &Path) -> Result<Kept, Unusable> {
    let most = MAX_FILE_BYTES as u64;
    let mut bytes = Vec::new();
    let mut file = File::open(file).map_err(Unusable::Read)?.take(most + 1);
    file.read_to_end(&mut bytes).map_err(Unusable::Read)?;
    if bytes.len() > MAX_FILE_BYTES {
        return Err(Unusable::TooLong);
    }
    Ok(Kept::decode(&bytes)?)
}

#[cfg(test)]
mod tests;
