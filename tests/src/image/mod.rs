//! Guest images: a stock Debian kernel, with either of two systems.
//!
//! [`Busybox`] is an initramfs and nothing else: it is up in two seconds, and most tests want no more. [`Debian`] is a
//! real system on a disk, with systemd and whatever packages a test asks for.
//!
//! An image is named by the digest of all that it is made of, so that the cache can't hold an outdated one. Both kinds
//! build their initramfs as a `cpio` archive in memory, with the kernel `modules` that a guest needs.

mod busybox;
mod cpio;
mod debian;
mod libraries;
mod modules;

pub use busybox::Busybox;
pub use debian::Debian;

use crate::setup::Tools;
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{fs, io};

/// Images that nobody used for this long are removed when there are more than [`IMAGES_KEPT`].
const OUT_OF_USE: Duration = Duration::from_hours(1);
const IMAGES_KEPT: usize = 10;

/// What a guest boots from: three files in a folder of the lab's cache, and perhaps a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The folder, named by the digest of what is in it.
    pub folder: PathBuf,
    /// The compressed kernel, for QEMU's `-kernel`.
    pub kernel: PathBuf,
    /// The initramfs, for QEMU's `-initrd`.
    pub initrd: PathBuf,
    /// The kernel's command line, for QEMU's `-append`; also in the file `cmdline` of the folder.
    pub command_line: String,
    /// The disk, if there is one: raw, shared by images, and never to be written to.
    pub disk: Option<PathBuf>,
}

/// What an image without a disk is made of.
struct Parts<'a> {
    kind: &'static str,
    kernel: &'a Path,
    initrd: &'a [u8],
    command_line: &'static str,
}

impl Parts<'_> {
    /// Puts the image into the cache, unless it is there.
    fn keep(&self, tools: &Tools) -> Result<Image> {
        let vmlinuz = fs::read(self.kernel).with_context(|| format!("read {}", self.kernel.display()))?;
        let digest = Sha256::new()
            .chain_update(&vmlinuz)
            .chain_update(self.initrd)
            .chain_update(self.command_line)
            .finalize();
        let name = Path::new("images").join(format!("{}-{:.16}", self.kind, format!("{digest:x}")));
        let folder = tools.cache.path(&name);
        if !folder.is_dir() {
            let workshop = tools.cache.workshop()?;
            write(workshop.path(), "vmlinuz", &vmlinuz)?;
            write(workshop.path(), "initrd", self.initrd)?;
            write(workshop.path(), "cmdline", self.command_line.as_bytes())?;
            workshop.keep_as(&name)?;
        }
        mark_used_and_prune(&folder)?;
        Ok(Image {
            kernel: folder.join("vmlinuz"),
            initrd: folder.join("initrd"),
            command_line: self.command_line.to_owned(),
            disk: None,
            folder,
        })
    }
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = folder.join(name);
    fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))
}

/// Every build of the agent makes an image of its own; only the latest used ones are worth their space.
fn mark_used_and_prune(image: &Path) -> Result<()> {
    let images = image.parent().expect("an image lies in the folder of images");
    mark_used(image).with_context(|| format!("mark {} as used", image.display()))?;
    for outdated in out_of_use(images).with_context(|| format!("list {}", images.display()))? {
        // Another lab may have removed it just now.
        let _ = fs::remove_dir_all(outdated);
    }
    Ok(())
}

fn mark_used(image: &Path) -> io::Result<()> {
    fs::File::open(image)?.set_modified(SystemTime::now())
}

fn out_of_use(images: &Path) -> io::Result<impl Iterator<Item = PathBuf>> {
    let mut ages = Vec::new();
    for entry in images.read_dir()? {
        let path = entry?.path();
        ages.push((path.metadata()?.modified()?.elapsed().unwrap_or_default(), path));
    }
    ages.sort();
    let outdated = ages
        .into_iter()
        .skip(IMAGES_KEPT)
        .filter(|(age, _)| *age > OUT_OF_USE);
    Ok(outdated.map(|(_, path)| path))
}
