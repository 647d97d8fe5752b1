//! The marks of open changes on the agent's disk, so that an agent that was killed finds out what became of them.
//!
//! Each is a file of its own, named by the digest of its key, for the agent's user alone. It is written before the change
//! is sent, and so a file that is cut short is of a change that was not: it is let go. Nothing here waits for the disk:
//! what is written outlives the agent, and if the machine itself dies, the programs that wait for the answer die with it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use moorline_shared::Digest;
use moorline_shared::id::IdempotencyKey;

use super::pending::Mark;

/// The longest file that is one of ours: a key, a target of 2,048 bytes, and what JSON adds.
const MOST_BYTES: u64 = 8 * 1024;

/// A folder of marks, if there is one.
#[derive(Debug, Default)]
pub struct Marks {
    folder: Option<PathBuf>,
}

impl Marks {
    /// Those in `folder`, which is made if it isn't there and can be. Where it can't, the changes that are open when the
    /// agent is killed are forgotten with it.
    pub fn at(folder: &Path) -> Self {
        match DirBuilder::new().recursive(true).mode(0o700).create(folder) {
            Ok(()) => Self {
                folder: Some(folder.to_owned()),
            },
            Err(error) => {
                tracing::warn!(%error, folder = %folder.display(), "the agent keeps no marks of changes under way: killed meanwhile, it can't tell what became of them");
                Self::default()
            }
        }
    }

    /// What an earlier process left. What is none of ours, or was cut short, is removed.
    pub(super) fn read(&self) -> Vec<Mark> {
        let Some(folder) = &self.folder else {
            return Vec::new();
        };
        let files = fs::read_dir(folder).into_iter().flatten().flatten();
        files
            .filter_map(|file| {
                let mark = read(&file.path());
                if mark.is_none() {
                    // One that stays is looked at again by the next process, and let go again.
                    let _ = fs::remove_file(file.path());
                }
                mark
            })
            .collect()
    }

    /// Keeps a mark from now on.
    pub(super) fn put(&self, mark: &Mark) {
        let Some(file) = self.file(&mark.key) else {
            return;
        };
        if let Err(error) = write(&file, mark) {
            tracing::warn!(%error, file = %file.display(), "a change under way leaves no mark: killed now, the agent can't tell what became of it");
            // What was written of it is as good as nothing.
            let _ = fs::remove_file(&file);
        }
    }

    /// Keeps the mark no longer.
    pub(super) fn remove(&self, key: &IdempotencyKey) {
        let Some(file) = self.file(key) else {
            return;
        };
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, file = %file.display(), "the mark of a change that is settled stays until the next start");
            }
            _ => {}
        }
    }

    fn file(&self, key: &IdempotencyKey) -> Option<PathBuf> {
        let name = Digest::of(key.to_string().as_bytes()).to_string();
        self.folder.as_ref().map(|folder| folder.join(name))
    }
}

fn read(file: &Path) -> Option<Mark> {
    let mut bytes = Vec::new();
    let file = fs::File::open(file).ok()?;
    file.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn write(file: &Path, mark: &Mark) -> io::Result<()> {
    let bytes = serde_json::to_vec(mark)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file)?;
    file.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use super::{Mark, Marks};
    use moorline_shared::InstanceId;
    use std::os::unix::fs::PermissionsExt as _;

    fn mark(key: &str) -> Mark {
        Mark {
            key: key.parse().unwrap(),
            by: InstanceId::from_bytes([1; 16]),
            method: "PUT".to_owned(),
            target: "/v1/instances/x/data/a".to_owned(),
        }
    }

    #[test]
    fn marks_are_there_for_the_next_process_until_they_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("state/writes");
        let marks = Marks::at(&at);
        for key in ["a", "b", "../c/%2f"] {
            marks.put(&mark(key));
        }
        marks.remove(&"b".parse().unwrap());
        let next = Marks::at(&at);
        let mut left = next.read();
        left.sort_by(|a, b| a.key.cmp(&b.key));
        assert_eq!(left, [mark("../c/%2f"), mark("a")]);
        let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&at), 0o700);
        for file in std::fs::read_dir(&at).unwrap() {
            assert_eq!(mode(&file.unwrap().path()), 0o600);
        }
    }

    #[test]
    fn what_was_cut_short_is_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let marks = Marks::at(folder.path());
        marks.put(&mark("a"));
        let whole = marks.file(&"a".parse().unwrap()).unwrap();
        let bytes = std::fs::read(&whole).unwrap();
        for length in 0..bytes.len() {
            std::fs::write(&whole, &bytes[..length]).unwrap();
            assert_eq!(marks.read(), [], "{length} bytes");
            assert!(!whole.exists());
        }
    }

    #[test]
    fn without_a_disk_nothing_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "no folder").unwrap();
        let marks = Marks::at(&folder.path().join("file/writes"));
        marks.put(&mark("a"));
        assert_eq!(marks.read(), []);
    }
}
