//! What stands for the disk of a guest that is nothing but a socket: the link key that its host gave it lies beside that,
//! for the next connection and for other programs of the lab.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use moorline_shared::secret::SecretKey;

/// The link key of the guest that dials this socket, if it was given one. Of a life that is over it may be as well.
///
/// Fails when there is something else than a key.
pub fn link_key(socket: &Path) -> Result<Option<SecretKey>> {
    let path = beside(socket);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let key = <[u8; 32]>::try_from(bytes).ok();
    let key = key.with_context(|| format!("{} is no key", path.display()))?;
    Ok(Some(SecretKey::from(key)))
}

/// Keeps the link key of the guest that dials this socket, whole or not at all.
pub fn keep_link_key(socket: &Path, key: &SecretKey) -> Result<()> {
    let path = beside(socket);
    let new = path.with_added_extension("new");
    fs::write(&new, key.expose()).with_context(|| format!("write {}", new.display()))?;
    fs::rename(&new, &path).with_context(|| format!("name {}", path.display()))
}

/// Forgets the link key of the guest that dials this socket; it is fine if there is none.
pub fn forget_link_key(socket: &Path) -> Result<()> {
    match fs::remove_file(beside(socket)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context("remove a link key"),
        _ => Ok(()),
    }
}

fn beside(socket: &Path) -> PathBuf {
    socket.with_added_extension("key")
}
