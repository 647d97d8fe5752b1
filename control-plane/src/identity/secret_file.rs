//! A file that holds one secret: made once, whole or not at all, and readable by its owner only.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Why a secret's file can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: it can't be {what}; check that its folder exists and that this user may write there", path.display())]
pub struct SecretFileError {
    /// The file.
    pub path: PathBuf,
    /// What was tried.
    pub what: &'static str,
    /// What the operating system said.
    pub source: std::io::Error,
}

/// Reads the secret at `path`. If there is none, one is made of 32 random bytes of the kernel's. Blocks.
pub fn read_or_make(
    path: &Path,
    text_of: impl FnOnce(&[u8; 32]) -> String,
) -> Result<Zeroizing<String>, SecretFileError> {
    let failed = |what| {
        move |source| SecretFileError {
            path: path.to_owned(),
            what,
            source,
        }
    };
    match File::open(path) {
        Ok(mut file) => {
            let mut text = Zeroizing::new(String::new());
            file.read_to_string(&mut text).map_err(failed("read"))?;
            Ok(text)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut random = Zeroizing::new([0; 32]);
            let filled = getrandom::fill(&mut random[..]).map_err(std::io::Error::other);
            filled.map_err(failed("made"))?;
            let text = Zeroizing::new(text_of(&random));
            make(path, &text).map_err(failed("made"))?;
            Ok(text)
        }
        Err(error) => Err(failed("opened")(error)),
    }
}

/// Whenever the machine fails, the file is there whole or not at all.
fn make(path: &Path, text: &str) -> std::io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    // One that is there is left of a start that did not come to its end.
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&aside)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&aside, path)?;
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::read_or_make;

    #[test]
    fn a_start_that_was_cut_off_leaves_nothing_that_stops_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.secret");
        std::fs::write(folder.path().join("some.secret.new"), "half of").unwrap();
        let made = read_or_make(&path, |random| format!("{random:02x?}")).unwrap();
        let read = read_or_make(&path, |_| "another".to_owned()).unwrap();
        assert_eq!(read.trim(), made.as_str());
        let rights = path.metadata().unwrap().permissions().mode();
        assert_eq!(rights & 0o777, 0o600);
        let files = folder.path().read_dir().unwrap().count();
        assert_eq!(files, 1, "only the secret is left");
    }
}
