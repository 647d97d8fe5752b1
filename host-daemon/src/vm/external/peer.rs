//! Whose a process is, and who may therefore connect as a guest.

use moorline_shared::host::{Channel, ProcessRef};

use super::record::Peer;
use super::{Caller, RegisterError, Registration};
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

/// Who may connect: the process where the daemon's user can let it, else its user; without one, the caller's.
pub(super) fn peer(registration: &Registration, vmm: Option<&Process>) -> Result<Peer, RegisterError> {
    let caller = registration.caller;
    let device = match &registration.channel {
        Channel::Hybrid {
            device: Some(device), ..
        } => Some(find(*device, caller)?),
        _ => None,
    };
    let Some(process) = device.as_ref().or(vmm) else {
        return Ok(Peer::User(caller.uid));
    };
    let identity = process.identity();
    let pid = identity.pid.unsigned_abs();
    let user = process
        .user()
        .map_err(|source| RegisterError::Process { pid, source })?;
    let user = user.ok_or(RegisterError::NoProcess { pid })?;
    let ours = user == 0 || user == rustix::process::geteuid().as_raw();
    Ok(if ours {
        Peer::Process(identity)
    } else {
        Peer::User(user)
    })
}
