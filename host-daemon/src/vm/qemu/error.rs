//! Why a VM can't be started.

use std::io;
use std::path::PathBuf;

use moorline_shared::id::ImageName;

use super::{LeaseError, PATIENCE, USERS};
use crate::vm::file::FileError;
use crate::vm::process::Exit;

/// Why a VM could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The instance names no image.
    #[error("the instance has no image to boot")]
    NoImage,
    /// The instance names an image that this host doesn't have.
    #[error("this host has no image '{0}': its configuration needs a table images.{0}")]
    UnknownImage(ImageName),
    /// Its folder or its record can't be made.
    #[error("can't keep what belongs to the VM")]
    Record(#[from] FileError),
    /// No CID.
    #[error("can't lease a CID")]
    Lease(#[from] LeaseError),
    /// Something of it can't be started or looked at.
    #[error("can't {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// One of its processes ended at once.
    #[error("{what} {ending}: {said}")]
    EndedEarly {
        /// Which.
        what: &'static str,
        /// How.
        ending: Exit,
        /// The last line that it wrote.
        said: String,
    },
    /// A file of the image is closed to the VM's user.
    #[error(
        "{} can't be read by user {user}, as whom this VM runs (qemu.user_base): give everybody the right to read it, and \
         to pass through the folders above it",
        file.display()
    )]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// The VM's user.
        user: u32,
        /// How that showed.
        source: Box<StartError>,
    },
    /// One of its processes hangs.
    #[error("{what} took more than {PATIENCE:?} to come up: {said}")]
    Late {
        /// Which.
        what: &'static str,
        /// The last line that it wrote, or what it answers.
        said: String,
    },
    /// All users that VMs may have are taken.
    #[error("all {USERS} users from qemu.user_base on have a VM")]
    NoUser,
    /// The guest's channel can't be bound.
    #[error("can't bind the guest's channel")]
    Channel(#[from] crate::link::BeginError),
}

pub(super) fn cannot(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::Io { what, source }
}
