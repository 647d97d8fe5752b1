//! The archive format that the kernel unpacks an initramfs from.
//!
//! It is "newc" of cpio(5), described in the kernel's `Documentation/driver-api/early-userspace/
//! buffer-format.rst`: for each entry a header of 8-digit hexadecimal numbers, the name and the contents, the
//! last two padded to four bytes. No compression: unpacking costs an emulated processor more than copying.

use std::collections::BTreeSet;

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive in the making. The same calls give the same bytes: it has no times in it.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: BTreeSet<String>,
}

impl Archive {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// A folder that `owner` (user and group) owns. Folders above it are made as needed, for root.
    pub(super) fn folder(&mut self, path: &str, mode: u32, owner: u32) {
        self.parents_of(path);
        if self.folders.insert(path.to_owned()) {
            self.entry(&Entry {
                owner,
                ..Entry::new(path, FOLDER | mode)
            });
        }
    }

    /// A regular file of root's.
    pub(super) fn file(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.parents_of(path);
        self.entry(&Entry {
            contents,
            ..Entry::new(path, FILE | mode)
        });
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.parents_of(path);
        self.entry(&Entry {
            contents: target.as_bytes(),
            ..Entry::new(path, LINK | 0o777)
        });
    }

    /// `/dev/console`, which the kernel opens for the first process before anything is mounted.
    pub(super) fn console(&mut self) {
        self.parents_of("dev/console");
        self.entry(&Entry {
            device: (5, 1),
            ..Entry::new("dev/console", CHARACTER_DEVICE | 0o600)
        });
    }

    /// The finished archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry(&Entry::new("TRAILER!!!", 0));
        self.bytes
    }

    fn parents_of(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent, 0o755, 0);
        }
    }

    fn entry(&mut self, entry: &Entry<'_>) {
        let inode = self.entries;
        self.entries += 1;
        let length = |bytes: usize| u32::try_from(bytes).expect("a file of an initramfs is below 4 GiB");
        let links = 1 + u32::from(entry.mode & FOLDER != 0);
        let (major, minor) = entry.device;
        let (mode, owner) = (entry.mode, entry.owner);
        let (size, name_size) = (length(entry.contents.len()), length(entry.path.len() + 1));
        let numbers = [
            inode, mode, owner, owner, links, 0, size, 0, 0, major, minor, name_size, 0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for number in numbers {
            self.bytes.extend_from_slice(format!("{number:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(entry.path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(entry.contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

struct Entry<'a> {
    path: &'a str,
    mode: u32,
    owner: u32,
    device: (u32, u32),
    contents: &'a [u8],
}

impl<'a> Entry<'a> {
    fn new(path: &'a str, mode: u32) -> Self {
        Self {
            path,
            mode,
            owner: 0,
            device: (0, 0),
            contents: &[],
        }
    }
}
