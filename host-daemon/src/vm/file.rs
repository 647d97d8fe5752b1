//! A JSON document on disk that is replaced in one step, and set aside under another name when it can't be read.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use moorline_shared::InstanceId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::durable;

/// Larger than any document kept here; what is larger is not one.
const MAX_BYTES: u64 = 64 * 1024;

/// How many files that could not be read are kept of each; the last one is overwritten after that.
const MAX_ASIDE: u32 = 16;

/// Why a document can't be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file system refused.
    #[error("can't {what} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("{} can't be used ({why}) and was set aside as {}", path.display(), aside.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where it is now.
        aside: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file is of a form that this daemon doesn't know yet. It stays as it is: the release that wrote it reads it.
    #[error(
        "{} was written by a newer release (its form is version {found}, and this one knows {known}): install that \
         release again; VMs run on meanwhile",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version of its form.
        found: u32,
        /// The newest version that this daemon knows.
        known: u32,
    },
    /// The file is not what it should be, and what it may hold is nobody's to look at.
    #[error("{} can't be used ({why}) and was removed", path.display())]
    Removed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Gives an error of the file system its context.
pub(super) fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FileError + 'a {
    move |source| FileError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// Makes a folder of documents where it is missing. Others get through it to what is theirs in there, and can't list it.
pub(crate) fn folder(path: PathBuf) -> Result<PathBuf, FileError> {
    fs::create_dir_all(&path).map_err(failed("create", &path))?;
    fs::set_permissions(&path, Permissions::from_mode(0o711)).map_err(failed("set the mode of", &path))?;
    Ok(path)
}

/// The document, if there is a file. One that isn't a `T` with this head is set aside: it is an error once, and absent from
/// then on. One of a newer form stays.
pub(crate) fn load<T: Document>(path: &Path, expected: Head) -> Result<Option<T>, FileError> {
    load_or(path, expected, set_aside)
}

/// The same for a document that is a secret: one that can't be used is removed, since nobody would ever remove a copy.
pub(super) fn load_secret<T: Document>(path: &Path, expected: Head) -> Result<Option<T>, FileError> {
    load_or(path, expected, remove_damaged)
}

/// Fails with [`FileError::Newer`] if the document is of a newer form than `known`. Whatever else may be wrong with it is
/// [`load`]'s to find.
pub(super) fn know(path: &Path, known: u32) -> Result<(), FileError> {
    read(path).map_or(Ok(()), |text| check_version(path, &text, known))
}

fn load_or<T: Document>(
    path: &Path,
    expected: Head,
    damaged: impl FnOnce(&Path, String) -> FileError,
) -> Result<Option<T>, FileError> {
    let text = match read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(damaged(path, error.to_string()));
        }
        Err(error) => return Err(failed("read", path)(error)),
    };
    check_version(path, &text, expected.version)?;
    let parsed = serde_json::from_str::<T>(&text).map_err(|error| error.to_string());
    match parsed.and_then(|document| expected.check(document.head()).map(|()| document)) {
        Ok(document) => Ok(Some(document)),
        Err(why) => Err(damaged(path, why)),
    }
}

/// Looked at before anything else in the document, of which a newer form may have made something else.
fn check_version(path: &Path, text: &str, known: u32) -> Result<(), FileError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    match serde_json::from_str(text) {
        Ok(Versioned { version: found }) if found > known => Err(FileError::Newer {
            path: path.to_owned(),
            found,
            known,
        }),
        _ => Ok(()),
    }
}

/// Keeps the document; it is on disk when this returns. Only the daemon's user can read it.
pub(super) fn save<T: Serialize>(path: &Path, document: &T) -> Result<(), FileError> {
    replace(path, document).map_err(failed("write", path))
}

/// The same without blocking the runtime's thread while the disk is waited for. Cancelled, it is done all the same.
pub(crate) async fn keep<T: Serialize + Send + 'static>(path: PathBuf, document: T) -> Result<(), FileError> {
    aside(path, "write", move |path| save(path, &document)).await
}

/// Removes a document, or a folder with all that is in it, without blocking the runtime's thread; it is fine if there is
/// none. Cancelled, it is done all the same.
pub(crate) async fn discard(path: PathBuf) -> Result<(), FileError> {
    aside(path, "remove", remove).await
}

/// Removes a document, or a folder with all that is in it; it is fine if there is none.
pub(super) fn remove(path: &Path) -> Result<(), FileError> {
    let removed = match path.symlink_metadata() {
        Ok(file) if file.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Does on a thread for such work what waits for the disk.
async fn aside(
    path: PathBuf,
    what: &'static str,
    work: impl FnOnce(&Path) -> Result<(), FileError> + Send + 'static,
) -> Result<(), FileError> {
    let named = path.clone();
    let done = tokio::task::spawn_blocking(move || work(&path)).await;
    done.unwrap_or_else(|panicked| Err(failed(what, &named)(io::Error::other(panicked))))
}

/// A record of an instance.
pub(crate) trait Document: DeserializeOwned {
    /// What it begins with.
    fn head(&self) -> Head;
}

/// What every record begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The version of its form; of one that is expected, the newest.
    pub(crate) version: u32,
    /// Of which instance it is.
    pub(crate) instance: InstanceId,
}

impl Head {
    /// Says what is wrong with a record that has another head than this expected one. Versions begin with 1.
    fn check(self, found: Self) -> Result<(), String> {
        let Self { version, instance } = self;
        if !(1..=version).contains(&found.version) {
            return Err(format!("it says that its version is {}", found.version));
        }
        if found.instance != instance {
            return Err(format!("it is the record of {}", found.instance));
        }
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    if file.metadata()?.len() > MAX_BYTES {
        let why = format!("it has more than {MAX_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    io::read_to_string(file)
}

/// Moves a file that can't be used out of the way under a name that is free, so that a person can look at it.
fn set_aside(path: &Path, why: String) -> FileError {
    let name = |n: u32| path.with_added_extension(format!("corrupt-{n}"));
    let aside = (1..MAX_ASIDE)
        .map(name)
        .find(|name| !name.exists())
        .unwrap_or_else(|| name(MAX_ASIDE));
    match fs::rename(path, &aside) {
        Ok(()) => FileError::Corrupt {
            path: path.to_owned(),
            aside,
            why,
        },
        Err(source) => failed("set aside", path)(source),
    }
}

fn remove_damaged(path: &Path, why: String) -> FileError {
    match fs::remove_file(path) {
        Ok(()) => FileError::Removed {
            path: path.to_owned(),
            why,
        },
        Err(source) => failed("remove", path)(source),
    }
}

fn replace<T: Serialize>(path: &Path, document: &T) -> io::Result<()> {
    durable::replace(path, |file| {
        serde_json::to_writer_pretty(&mut *file, document)?;
        file.write_all(b"\n")
    })
}
