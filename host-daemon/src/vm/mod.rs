//! The machines: drivers that start, adopt, watch and stop VMs, and those that others run.
//!
//! [`Supervisor`] takes what the control plane wants and has one task per instance bring it about. What such a task
//! does next is decided by [`plan`], a table without side effects; what it does, by the [`qemu`] driver, which talks
//! with its QEMUs over [`qmp`]. [`record`] keeps on disk what the next daemon needs to find the VMs again, which run
//! on without any: [`process`] says how it can be sure that they are the same. VMs that others run are registered by way
//! of [`external`]. Where a guest's root can't be told by its port, [`link_key`] keeps what it proves itself by.
//!
//! An *incarnation* is one life of an instance's VM. It begins when a driver starts the VM, before the VM's first
//! instruction, and it ends with the VM's processes. A guest that restarts by itself goes on with the same one: its
//! memory is new, but its channel isn't. Incarnations of an instance have rising numbers, whether or not they came to
//! anything.
//!
//! Architecture invariant: whatever the daemon's end, VMs run on; and nothing in a VM's own folder, which its QEMU can
//! change, decides which process gets a signal.

pub mod config;
pub mod external;
pub mod file;
mod instance;
pub(crate) mod kernel;
mod link_key;
pub mod plan;
pub mod process;
pub mod qemu;
pub mod qmp;
pub mod record;
mod supervisor;
mod table;

pub use file::FileError;
pub use supervisor::Supervisor;
pub use table::Table;
