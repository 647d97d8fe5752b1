//! The shared libraries that programs of the machine need, to be taken along into a guest.

use super::cpio::Archive;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use tokio::process::Command;

/// Adds every library that `ldd` names for the programs, each under the path it is looked for.
///
/// A statically linked program needs none. Fails when a library is missing on this machine.
pub(super) async fn add(archive: &mut Archive, programs: impl Iterator<Item = &Path>) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for program in programs {
        libraries.extend(needed_by(program).await?);
    }
    for library in libraries {
        let bytes = fs::read(&library).with_context(|| format!("read {library}"))?;
        archive.file(library.trim_start_matches('/'), 0o755, &bytes);
    }
    Ok(())
}

/// The paths in lines like `libz.so.1 => /lib/libz.so.1 (0x...)` and `/lib64/ld-linux.so.2 (0x...)`.
async fn needed_by(program: &Path) -> Result<Vec<String>> {
    // It fails for a statically linked program, which is how it says that there is nothing to list.
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .await
        .context("run ldd")?;
    let listing = String::from_utf8_lossy(&output.stdout);
    Ok(listing
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(str::to_owned)
        .collect())
}
