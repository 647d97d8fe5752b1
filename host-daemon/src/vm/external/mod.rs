//! The driver for VMs that somebody else runs: a VM manager says which channel is whose, and until when.
//!
//! [`External`] is the way to ask from anywhere; one task, that of `registrar`, does it all in turn. A registration
//! begins an incarnation and ends with the VMM, by its process's descriptor, or when it is taken back. It is kept on
//! disk (`record`) and checked anew by the next daemon (`resume`). Where its socket lies is checked by `place`, and
//! whose processes are named by `peer`. By `handover` the guest is given what it proves itself by.

mod handover;
mod peer;
mod place;
mod record;
mod registrar;
mod resume;

use std::io;

use moorline_shared::InstanceId;
use moorline_shared::api::instances::Driver;
use moorline_shared::host::{Channel, Registered, Supervision};
use tokio::sync::{mpsc, oneshot};

use super::file::FileError;
use super::link_key;
use crate::link::BeginError;
use crate::uplink::SpecChange;

pub use self::place::PlaceError;
pub(super) use self::registrar::Registrar;

/// Who asks: the user at the other end of the daemon's socket, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its user id.
    pub uid: u32,
}

/// A VM that is to be taken for an instance's.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Which instance; the control plane knows it.
    pub instance: InstanceId,
    /// The last life of it that the control plane knows.
    pub incarnation: u64,
    /// How its guest reaches the host.
    pub channel: Channel,
    /// What ends the registration.
    pub supervision: Supervision,
    /// Who registers it.
    pub caller: Caller,
}

/// Why a VM can't be registered, or not be taken back.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The host runs the VM itself.
    #[error("the VM of {0} is run by this host daemon, so nobody else can register one for it")]
    NotExternal(InstanceId),
    /// The instance is no more.
    #[error("{0} is terminated")]
    Terminated(InstanceId),
    /// There is no registration to take back.
    #[error("no VM is registered for {0}")]
    NotRegistered(InstanceId),
    /// Somebody else's VM is registered.
    #[error(
        "the VM of {0} was registered by another user, and only that one or root may take it back or replace it"
    )]
    NotYourRegistration(InstanceId),
    /// A CID that no guest can have.
    #[error("{0} is no guest's CID: the lowest is 3, and the highest 4294967294")]
    Cid(u32),
    /// The channel is another instance's.
    #[error("this channel is that of {holder}; unregister that first")]
    Taken {
        /// Whose it is.
        holder: InstanceId,
    },
    /// A process that isn't there.
    #[error("there is no process {pid}, or it isn't the one that started then")]
    NoProcess {
        /// Its id.
        pid: u32,
    },
    /// A process of somebody else.
    #[error("process {pid} isn't one of yours, and only root may register the VMs of others")]
    NotYours {
        /// Its id.
        pid: u32,
    },
    /// A process can't be looked at.
    #[error("can't look at process {pid}")]
    Process {
        /// Its id.
        pid: u32,
        /// Why not.
        source: io::Error,
    },
    /// The host doesn't say which boot this is.
    #[error("can't read the host's boot id")]
    Boot(#[source] io::Error),
    /// No key for the guest.
    #[error("the kernel gives no random bytes for a link key")]
    Random(#[source] io::Error),
    /// A socket where none may lie.
    #[error("the socket can't lie there")]
    Place(#[from] PlaceError),
    /// The channel can't be bound.
    #[error("can't bind the guest's channel")]
    Channel(#[from] BeginError),
    /// It can't be kept for the next daemon.
    #[error("can't keep the registration")]
    File(#[from] FileError),
    /// The daemon is about to end.
    #[error("the daemon is about to end")]
    Ending,
}

/// What the registrar is asked.
#[derive(Debug)]
enum Command {
    Driver(InstanceId, oneshot::Sender<Option<Driver>>),
    Check(Box<Registration>, oneshot::Sender<Result<(), RegisterError>>),
    Register(
        Box<Registration>,
        oneshot::Sender<Result<Registered, RegisterError>>,
    ),
    Unregister(InstanceId, Caller, oneshot::Sender<Result<(), RegisterError>>),
    Change(SpecChange),
}

/// The way to the registrar. Cheap to clone.
#[derive(Clone, Debug)]
pub struct External(mpsc::Sender<Command>);

impl External {
    /// Who runs the instance's VM, if the instance is known here.
    pub async fn driver(&self, instance: InstanceId) -> Result<Option<Driver>, RegisterError> {
        self.call(|reply| Command::Driver(instance, reply)).await
    }

    /// Whether the VM could be registered, as far as that can be seen beforehand.
    pub async fn check(&self, registration: Registration) -> Result<(), RegisterError> {
        self.call(|reply| Command::Check(Box::new(registration), reply))
            .await?
    }

    /// Takes the VM for the instance's from now on; one that was registered before is taken no longer,
    /// and must be the caller's.
    pub async fn register(&self, registration: Registration) -> Result<Registered, RegisterError> {
        self.call(|reply| Command::Register(Box::new(registration), reply))
            .await?
    }

    /// Takes the registration back, which must be the caller's.
    pub async fn unregister(&self, instance: InstanceId, caller: Caller) -> Result<(), RegisterError> {
        self.call(|reply| Command::Unregister(instance, caller, reply))
            .await?
    }

    /// Passes on what the feed says.
    pub(super) async fn change(&self, change: SpecChange) {
        // A registrar that has ended needs to know nothing.
        let _ = self.0.send(Command::Change(change)).await;
    }

    async fn call<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, RegisterError> {
        let (reply, answer) = oneshot::channel();
        self.0
            .send(command(reply))
            .await
            .map_err(|_| RegisterError::Ending)?;
        answer.await.map_err(|_| RegisterError::Ending)
    }
}
