//! A VM that runs: its processes and the conversation with its QEMU.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;

use crate::vm::process::{Exit, Identity, Process};
use crate::vm::qmp::{Event, Qmp, QmpError, RunState};

/// Between two tries to get a lost conversation back.
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// What happened to a VM by itself.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::vm) enum VmEvent {
    /// The guest ended; its QEMU waits to be told to quit.
    GuestEnded {
        /// In QEMU's word.
        reason: String,
    },
    /// QEMU ended.
    VmmEnded(Exit),
    /// The vsock device's process ended: the guest can't reach the host in this life any more.
    DeviceEnded(Exit),
    /// Something else that is only worth a line in the log.
    Noted(Event),
}

/// A VM that runs. Dropping it leaves the VM alone.
#[derive(Debug)]
pub(in crate::vm) struct Vm {
    pub(super) vmm: Process,
    pub(super) device: Device,
    pub(super) socket: PathBuf,
    pub(super) qmp: Option<Qmp>,
}

/// The guest's vsock device, where that is a process.
#[derive(Debug)]
pub(super) enum Device {
    Kernel,
    Process(Process),
    Lost,
}

impl Device {
    /// Its end, once; for ever pending where there is nothing that could end.
    async fn ended(&mut self) -> Exit {
        match self {
            Self::Process(process) => process.ended().await,
            Self::Kernel | Self::Lost => std::future::pending().await,
        }
    }
}

impl Vm {
    /// The next thing that happens. Cancel-safe: what was begun and not finished is begun anew.
    pub(in crate::vm) async fn event(&mut self) -> VmEvent {
        let vmm = self.vmm.identity();
        // Cancel-safe: ends are remembered by the processes, and unread bytes by the conversation.
        tokio::select! {
            biased;
            ending = self.vmm.ended() => VmEvent::VmmEnded(ending),
            ending = self.device.ended() => {
                self.device = Device::Lost;
                VmEvent::DeviceEnded(ending)
            }
            event = heard(&mut self.qmp, &self.socket, vmm) => match event {
                Event::Shutdown { reason } => VmEvent::GuestEnded { reason },
                other => VmEvent::Noted(other),
            },
        }
    }

    /// QEMU's process id.
    pub(in crate::vm) fn pid(&self) -> u32 {
        self.vmm.identity().pid.unsigned_abs()
    }

    /// Presses the guest's power button.
    pub(in crate::vm) async fn power_down(&mut self) -> Result<(), QmpError> {
        let done = self.qmp().await?.power_down().await;
        self.after(done)
    }

    /// Asks QEMU to end.
    pub(in crate::vm) async fn quit(&mut self) -> Result<(), QmpError> {
        let done = self.qmp().await?.quit().await;
        self.after(done)
    }

    /// A conversation that broke is of no more use: the next exchange begins another. One that only brought a no goes
    /// on.
    fn after(&mut self, done: Result<(), QmpError>) -> Result<(), QmpError> {
        if done
            .as_ref()
            .is_err_and(|error| !matches!(error, QmpError::Refused { .. }))
        {
            self.qmp = None;
        }
        done
    }

    /// Kills QEMU; its end arrives as an event.
    pub(in crate::vm) fn kill(&mut self) -> io::Result<()> {
        self.vmm.kill()
    }

    /// Ends what is left once QEMU has ended.
    pub(in crate::vm) async fn clear(self) -> io::Result<()> {
        if let Device::Process(mut device) = self.device {
            device.kill()?;
            device.ended().await;
        }
        Ok(())
    }

    async fn qmp(&mut self) -> Result<&mut Qmp, QmpError> {
        if self.qmp.is_none() {
            self.qmp = Some(Qmp::connect(&self.socket, self.vmm.identity()).await?);
        }
        // Just made sure of; an absent one would be the closed one.
        self.qmp.as_mut().ok_or_else(|| QmpError::Closed {
            path: self.socket.clone(),
        })
    }
}

/// The next event, over a new conversation whenever the old one breaks. QEMU says only once that the guest ended, so
/// a new conversation begins with asking.
async fn heard(qmp: &mut Option<Qmp>, socket: &Path, vmm: Identity) -> Event {
    loop {
        let failed = match qmp {
            Some(qmp) => match qmp.event().await {
                Ok(event) => return event,
                Err(error) => error,
            },
            None => match again(socket, vmm).await {
                Ok((fresh, state)) => {
                    *qmp = Some(fresh);
                    if state == RunState::Shutdown {
                        let reason = "guest-shutdown".to_owned();
                        return Event::Shutdown { reason };
                    }
                    continue;
                }
                Err(error) => error,
            },
        };
        tracing::debug!(error = %failed, "lost the conversation with QEMU");
        *qmp = None;
        sleep(BETWEEN_TRIES).await;
    }
}

/// A new conversation, and what the VM is doing.
pub(super) async fn again(socket: &Path, vmm: Identity) -> Result<(Qmp, RunState), QmpError> {
    let mut qmp = Qmp::connect(socket, vmm).await?;
    let state = qmp.status().await?;
    Ok((qmp, state))
}

#[cfg(test)]
mod tests {
    use super::{Device, Vm};
    use crate::vm::process::{Identity, Process};
    use crate::vm::qmp::QmpError;
    use std::io::ErrorKind;
    use std::path::PathBuf;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::UnixListener;

    /// A VM whose VMM is this process, which listens where its QEMU would.
    fn vm(socket: PathBuf) -> Vm {
        let vmm = Process::find(Identity::own()).unwrap().unwrap();
        Vm {
            vmm,
            device: Device::Kernel,
            socket,
            qmp: None,
        }
    }

    #[tokio::test]
    async fn a_link_to_another_vms_socket_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let [socket, other] = ["a", "b"].map(|vm| folder.path().join(vm));
        let listener = std::os::unix::net::UnixListener::bind(&other).unwrap();
        listener.set_nonblocking(true).unwrap();
        std::os::unix::fs::symlink(&other, &socket).unwrap();
        let refused = vm(socket).power_down().await.unwrap_err();
        assert!(matches!(refused, QmpError::Io { .. }), "{refused}");
        let nobody = listener.accept().unwrap_err();
        assert_eq!(nobody.kind(), ErrorKind::WouldBlock);
    }

    /// Greets, and answers commands by `answer` until the other side hangs up.
    async fn converse(listener: &UnixListener, answer: impl Fn(&str, u64) -> String) {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"{\"QMP\": {}}\r\n").await.unwrap();
        let (reader, mut writer) = stream.split();
        let mut lines = BufReader::new(reader).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let command: serde_json::Value = serde_json::from_str(&line).unwrap();
            let said = answer(
                command["execute"].as_str().unwrap(),
                command["id"].as_u64().unwrap(),
            );
            writer.write_all(said.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_conversation_that_broke_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("qmp.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut vm = vm(socket);
        let done = |id| format!("{{\"return\": {{}}, \"id\": {id}}}\r\n");
        let qemu = async {
            converse(&listener, |command, id| match command {
                "system_powerdown" => "no JSON\r\n".to_owned(),
                _ => done(id),
            })
            .await;
            converse(&listener, |_, id| done(id)).await;
        };
        let asking = async {
            let broke = vm.power_down().await.unwrap_err();
            assert!(matches!(broke, QmpError::Protocol { .. }), "{broke}");
            vm.power_down().await.unwrap();
            vm.qmp = None;
        };
        tokio::join!(qemu, asking);
    }
}
