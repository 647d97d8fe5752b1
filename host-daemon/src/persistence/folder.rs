//! The cache's folder: files that are replaced in one step each, many with few waits for the disk, and files that can't
//! be used, which are set aside for a person to look at.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use moorline_shared::InstanceId;

use super::frame::Damage;

const EXTENSION: &str = "view";
const NEW: &str = "new";
const POSITION: &str = "position";
const CORRUPT: &str = "corrupt";
/// No file is larger: a view takes 2 MiB at most, and its entries' numbers little more.
const MAX_BYTES: u64 = 4 * 1024 * 1024;
/// How many files that could not be used are kept; the oldest goes first.
const MAX_CORRUPT: usize = 16;

/// A file of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    View(InstanceId),
    Position,
}

/// Something about the folder failed.
#[derive(Debug, thiserror::Error)]
#[error("can't {what} {}", path.display())]
pub(super) struct FolderError {
    /// What was tried, as a verb.
    what: &'static str,
    /// With what.
    path: PathBuf,
    /// Why not.
    source: io::Error,
}

/// Files that are not on disk as they should be.
#[derive(Debug)]
pub(super) struct Unwritten {
    pub(super) names: Vec<Name>,
    /// Why not the first of them.
    pub(super) error: FolderError,
}

#[derive(Default)]
struct Failures {
    names: Vec<Name>,
    first: Option<FolderError>,
}

impl Failures {
    fn or<T>(&mut self, name: Name, done: Result<T, FolderError>) -> Option<T> {
        done.map_err(|error| {
            self.names.push(name);
            self.first.get_or_insert(error);
        })
        .ok()
    }

    fn into_result(self) -> Result<(), Unwritten> {
        let names = self.names;
        self.first.map_or(Ok(()), |error| Err(Unwritten { names, error }))
    }
}

/// The folder `cache` beneath the daemon's state folder.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

fn failed<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> FolderError + 'a {
    move |source| FolderError {
        what,
        path: path.to_owned(),
        source,
    }
}

impl Folder {
    /// Makes the folder where it is missing, for the daemon's user alone, and removes what writes left that were cut off.
    pub(super) fn open(state: &Path) -> Result<Self, FolderError> {
        let folder = Self(state.join("cache"));
        folder.make()?;
        for path in folder.files()? {
            if path.extension().is_some_and(|extension| extension == NEW)
                && let Err(error) = fs::remove_file(&path)
            {
                // It only takes up room, and on a disk that was mounted read-only everything else can still be read.
                tracing::warn!(%error, file = %path.display(), "what is left of a write can't be removed");
            }
        }
        Ok(folder)
    }

    /// Makes the folder where it is missing.
    pub(super) fn make(&self) -> Result<(), FolderError> {
        make(&self.0)
    }

    fn files(&self) -> Result<Vec<PathBuf>, FolderError> {
        let listed = fs::read_dir(&self.0).map_err(failed("list", &self.0))?;
        Ok(listed.filter_map(|entry| Some(entry.ok()?.path())).collect())
    }

    /// Where a file is.
    pub(super) fn path(&self, name: Name) -> PathBuf {
        match name {
            Name::View(instance) => self.0.join(instance.to_string()).with_extension(EXTENSION),
            Name::Position => self.0.join(POSITION),
        }
    }

    /// The instances that have a file. What has another name is not ours and stays.
    pub(super) fn instances(&self) -> Result<Vec<InstanceId>, FolderError> {
        let ours = |path: &PathBuf| path.extension().is_some_and(|extension| extension == EXTENSION);
        let files = self.files()?.into_iter().filter(ours);
        let mut instances: Vec<_> = files
            .filter_map(|path| path.file_stem()?.to_str()?.parse().ok())
            .collect();
        instances.sort_unstable();
        Ok(instances)
    }

    /// A file's bytes, `None` if there is no such file.
    pub(super) fn read(&self, name: Name) -> Result<Option<Vec<u8>>, Damage> {
        let file = match File::open(self.path(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Damage::Unreadable(error)),
        };
        let mut bytes = Vec::new();
        let read = file.take(MAX_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(Damage::Unreadable)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(Damage::Large(MAX_BYTES));
        }
        Ok(Some(bytes))
    }

    /// Replaces files, each in one step, and waits until they are on disk. All are written before the disk is waited for.
    pub(super) fn replace(&self, files: Vec<(Name, Vec<u8>)>) -> Result<(), Unwritten> {
        let mut failures = Failures::default();
        let mut written = Vec::new();
        for (name, bytes) in files {
            written.extend(failures.or(name, self.write_beside(name, &bytes)));
        }
        let mut renamed = Vec::new();
        for file in written {
            let name = file.0;
            renamed.extend(failures.or(name, self.put_in_place(file)));
        }
        if let Err(error) = self.sync() {
            // Nobody knows which of them a loss of power would leave.
            failures.names.extend(renamed);
            failures.first.get_or_insert(error);
        }
        failures.into_result()
    }

    fn write_beside(&self, name: Name, bytes: &[u8]) -> Result<(Name, File), FolderError> {
        let path = self.beside(name);
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&path).map_err(failed("create", &path))?;
        file.write_all(bytes).map_err(failed("write", &path))?;
        Ok((name, file))
    }

    fn put_in_place(&self, (name, file): (Name, File)) -> Result<Name, FolderError> {
        let (beside, path) = (self.beside(name), self.path(name));
        file.sync_all().map_err(failed("write", &beside))?;
        fs::rename(&beside, &path).map_err(failed("replace", &path))?;
        Ok(name)
    }

    fn beside(&self, name: Name) -> PathBuf {
        self.path(name).with_added_extension(NEW)
    }

    /// Removes what is left of writes that failed: it takes room that the next ones may need.
    pub(super) fn clean(&self, names: &[Name]) {
        for name in names {
            // The next write begins it anew.
            let _ = fs::remove_file(self.beside(*name));
        }
    }

    /// Removes a file; it is fine if there is none. It is gone for good after [`Self::sync`].
    pub(super) fn remove(&self, name: Name) -> Result<(), FolderError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Waits until what was renamed and removed is so on disk.
    pub(super) fn sync(&self) -> Result<(), FolderError> {
        let synced = File::open(&self.0).and_then(|folder| folder.sync_all());
        synced.map_err(failed("sync", &self.0))
    }

    /// Moves a file that can't be used out of the way, under a number that is higher than those before, and returns where
    /// it is now.
    pub(super) fn set_aside(&self, name: Name) -> Result<PathBuf, FolderError> {
        let path = self.path(name);
        let corrupt = self.0.join(CORRUPT);
        make(&corrupt)?;
        let mut kept = numbered(&corrupt).map_err(failed("list", &corrupt))?;
        let number = kept.last().map_or(1, |(number, _)| number + 1);
        while kept.len() >= MAX_CORRUPT {
            let (_, oldest) = kept.remove(0);
            fs::remove_file(&oldest).map_err(failed("remove", &oldest))?;
        }
        let file = path.file_name().unwrap_or_default();
        let aside = corrupt.join(file).with_added_extension(number.to_string());
        fs::rename(&path, &aside).map_err(failed("set aside", &path))?;
        Ok(aside)
    }
}

fn make(folder: &Path) -> Result<(), FolderError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(folder).map_err(failed("create", folder))
}

/// The files in a folder that end with a number, in the order of these.
fn numbered(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let paths = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<_> = paths
        .filter_map(|path| Some((path.extension()?.to_str()?.parse().ok()?, path)))
        .collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::{Folder, MAX_CORRUPT, Name};
    use crate::link::tests::id;
    use std::os::unix::fs::PermissionsExt as _;

    fn folder() -> (tempfile::TempDir, Folder) {
        let state = tempfile::tempdir().unwrap();
        let folder = Folder::open(state.path()).unwrap();
        (state, folder)
    }

    fn read(folder: &Folder, name: Name) -> Option<Vec<u8>> {
        folder.read(name).unwrap()
    }

    #[test]
    fn what_was_replaced_is_there_and_what_was_cut_off_is_not() {
        let (state, folder) = folder();
        let [one, two] = [1, 2].map(|n| Name::View(id(n)));
        folder
            .replace(vec![(one, b"1".to_vec()), (Name::Position, b"p".to_vec())])
            .unwrap();
        folder.write_beside(two, b"half of it").unwrap();
        folder.write_beside(one, b"half of it").unwrap();
        assert_eq!(folder.files().unwrap().len(), 4);
        let folder = Folder::open(state.path()).unwrap();
        assert_eq!(folder.instances().unwrap(), [id(1)]);
        assert_eq!(folder.files().unwrap().len(), 2);
        assert_eq!(read(&folder, one).as_deref(), Some(&b"1"[..]));
        assert_eq!(read(&folder, two), None);
        folder.remove(one).unwrap();
        folder.remove(one).unwrap();
        assert_eq!(folder.instances().unwrap(), []);
    }

    #[test]
    fn what_a_write_left_and_cant_be_removed_is_in_nobodys_way() {
        let (state, folder) = folder();
        let [one, two] = [1, 2].map(|n| Name::View(id(n)));
        folder.replace(vec![(one, b"1".to_vec())]).unwrap();
        std::fs::create_dir(folder.beside(two)).unwrap();
        let folder = Folder::open(state.path()).unwrap();
        assert_eq!(folder.instances().unwrap(), [id(1)]);
        assert_eq!(read(&folder, one).as_deref(), Some(&b"1"[..]));
    }

    #[test]
    fn a_file_that_cant_be_written_keeps_no_other_from_the_disk() {
        let (_state, folder) = folder();
        let [one, two] = [1, 2].map(|n| Name::View(id(n)));
        std::fs::create_dir(folder.path(one)).unwrap();
        let unwritten = folder
            .replace(vec![(one, b"1".to_vec()), (two, b"2".to_vec())])
            .unwrap_err();
        assert_eq!(unwritten.names, [one]);
        let said = unwritten.error.to_string();
        assert!(
            said.contains("can't replace") && said.contains(&id(1).to_string()),
            "{said}"
        );
        assert_eq!(read(&folder, two).as_deref(), Some(&b"2"[..]));
        folder.clean(&unwritten.names);
        assert_eq!(folder.files().unwrap().len(), 2);
    }

    #[test]
    fn nobody_else_reads_them() {
        let (_state, folder) = folder();
        folder.replace(vec![(Name::Position, Vec::new())]).unwrap();
        let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.0), 0o700);
        assert_eq!(mode(&folder.path(Name::Position)), 0o600);
    }

    #[test]
    fn what_is_set_aside_is_kept_under_a_number_and_not_for_ever() {
        let (_state, folder) = folder();
        let last = 3 * MAX_CORRUPT;
        for n in 1..=last {
            folder.replace(vec![(Name::Position, vec![1; n])]).unwrap();
            let aside = folder.set_aside(Name::Position).unwrap();
            assert_eq!(std::fs::read(&aside).unwrap().len(), n);
            assert!(
                aside.ends_with(format!("corrupt/position.{n}")),
                "{}",
                aside.display()
            );
        }
        let kept = super::numbered(&folder.0.join("corrupt")).unwrap();
        let numbers: Vec<_> = kept
            .iter()
            .map(|(number, _)| usize::try_from(*number).unwrap())
            .collect();
        let expected: Vec<_> = (last - MAX_CORRUPT + 1..=last).collect();
        assert_eq!(numbers, expected);
        assert_eq!(read(&folder, Name::Position), None);
    }

    #[test]
    fn no_file_is_read_that_is_far_too_large() {
        let (_state, folder) = folder();
        let file = std::fs::File::create(folder.path(Name::Position)).unwrap();
        file.set_len(1 << 40).unwrap();
        assert!(folder.read(Name::Position).is_err());
    }
}
