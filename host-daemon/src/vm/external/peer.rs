//! Whose a process is, and who may therefore connect as a guest.

use moorline_shared::host::{Channel, ProcessRef};

use super::record::Peer;
use super::{Caller, RegisterError, Registration};
use crate::channel::ExpectedPeer;
use crate::vm::process::Process;

/// The process that is meant, if it is the caller's.
pub(super) fn find(reference: ProcessRef, caller: Caller) -> Result<Process, RegisterError> {
    let ProcessRef { pid, started } = reference;
    let failed = |source| RegisterError::Process { pid, source };
    let gone = || RegisterError::NoProcess { pid };
    let id = i32::try_from(pid).map_err(|_| gone())?;
    let process = Process::with_id(id).map_err(failed)?.ok_or_else(gone)?;
    if started.is_some_and(|started| started != process.identity().started) {
        return Err(gone());
    }
    let user = process.user().map_err(failed)?.ok_or_else(gone)?;
    if caller.uid != 0 && caller.uid != user {
        return Err(RegisterError::NotYours { pid });
    }
    Ok(process)
}

/// Who may connect, as the shards know it. Fails when the process has ended.
pub(super) fn expected(peer: Peer) -> Result<ExpectedPeer, RegisterError> {
    let process = match peer {
        Peer::User(user) => return Ok(ExpectedPeer::User(user)),
        Peer::Process(process) => process,
    };
    let pid = process.pid.unsigned_abs();
    let gone = || RegisterError::NoProcess { pid };
    let failed = |source| RegisterError::Process { pid, source };
    let held = Process::find(process).map_err(failed)?.ok_or_else(gone)?;
    let user = held.user().map_err(failed)?.ok_or_else(gone)?;
    Ok(ExpectedPeer::Process { process, user })
}

/// Who may connect: the device's process, or else the VMM; without one, any process of the caller's user.
pub(super) fn peer(registration: &Registration, vmm: Option<&Process>) -> Result<Peer, RegisterError> {
    let caller = registration.caller;
    let device = match &registration.channel {
        Channel::Hybrid {
            device: Some(device), ..
        } => Some(find(*device, caller)?),
        _ => None,
    };
    let process = device.as_ref().or(vmm);
    Ok(process.map_or(Peer::User(caller.uid), |process| {
        Peer::Process(process.identity())
    }))
}
