//! How a VM is started: its disk, its link key, QEMU, and what is said where that fails.

use std::process::Stdio;

use moorline_shared::api::feed::InstanceSpec;

use super::command::{self, Machine};
use super::handed::HandedKey;
use super::launch::{self, Launch, last_line};
use super::vm::{Vm, again};
use super::way::{Ready, Way};
use super::{Qemu, StartError, accel, cannot, come_up, remove_if_there};
use crate::vm::config::Image;
use crate::vm::process::{Exit, Process, boot_id};
use crate::vm::qmp::Qmp;
use crate::vm::record::Processes;

impl Qemu {
    /// Starts QEMU and waits until it answers. Cancelled or failed, it may leave processes, which [`Self::clear`]
    /// ends.
    pub(in crate::vm) async fn boot(
        &self,
        spec: &InstanceSpec,
        ready: Ready,
    ) -> Result<(Vm, Processes), StartError> {
        let engine = self
            .engine
            .get_or_init(|| accel::choose(&self.config, &self.images));
        let machine = Machine {
            instance: spec.instance,
            config: &self.config,
            image: self.image(spec)?,
            vcpus: spec.vcpus,
            memory_mib: spec.memory_mib,
            engine: *engine.await,
            device: ready.device(),
            folder: &ready.folder,
        };
        let handed = self.hand_key(&machine, &ready.way)?;
        let (stdin, device, vsock) = ready.way.plug();
        let started = async {
            self.make_overlay(&machine).await?;
            self.start_qemu(&machine, stdin).await
        };
        let started = started.await;
        // QEMU has read it when it answers.
        drop(handed);
        let (vmm, qmp) = match started {
            Ok(started) => started,
            Err(error) => return Err(self.explain(error, &machine).await),
        };
        let processes = Processes {
            boot: boot_id().map_err(cannot("read the host's boot id"))?,
            vmm: vmm.identity(),
            vsock,
        };
        let vm = Vm {
            vmm,
            device,
            socket: command::qmp_socket(&ready.folder),
            qmp: Some(qmp),
        };
        Ok((vm, processes))
    }

    /// Lays the guest's link key where QEMU reads it, and nobody but its user can, until the answer is dropped.
    fn hand_key(&self, machine: &Machine<'_>, way: &Way) -> Result<Option<HandedKey>, StartError> {
        let Way::Process { key, .. } = way else {
            return Ok(None);
        };
        let path = command::link_key(machine.folder);
        let handed = HandedKey::lay(path, key, self.user_of(machine.instance));
        handed.map(Some).map_err(cannot("lay down the VM's link key"))
    }

    /// Names the image's file that the VM's user can't read, if that is why one of its processes ended at once.
    async fn explain(&self, error: StartError, machine: &Machine<'_>) -> StartError {
        let user = self.user_of(machine.instance);
        let (Some(user), StartError::EndedEarly { .. }) = (user, &error) else {
            return error;
        };
        for file in machine.image.files() {
            // Where it can't be tried, what the process said has to do.
            if file.exists() && launch::can_read(user, file).await.is_ok_and(|can| !can) {
                return StartError::Unreadable {
                    file: file.to_owned(),
                    user,
                    source: Box::new(error),
                };
            }
        }
        error
    }

    fn image(&self, spec: &InstanceSpec) -> Result<&Image, StartError> {
        let name = spec.image.as_ref().ok_or(StartError::NoImage)?;
        self.images
            .get(name)
            .ok_or_else(|| StartError::UnknownImage(name.clone()))
    }

    async fn start_qemu(&self, machine: &Machine<'_>, stdin: Stdio) -> Result<(Process, Qmp), StartError> {
        let socket = command::qmp_socket(machine.folder);
        remove_if_there(&socket).map_err(cannot("remove an old socket of QEMU"))?;
        let log = self.qemu_log(machine.instance);
        let launch = self.launch(
            machine.instance,
            "qemu",
            &self.config.binary,
            &log,
            machine.folder,
        );
        let launch = Launch {
            group: accel::group_of(machine.engine),
            ..launch
        };
        let mut vmm = launch
            .start(machine.arguments(), stdin)
            .map_err(cannot("start QEMU"))?;
        let identity = vmm.identity();
        let answers = async || again(&socket, identity).await.ok();
        let (qmp, _) = come_up("QEMU", &mut vmm, &log, answers).await?;
        Ok((vmm, qmp))
    }

    /// An empty layer over the image's disk, unless the instance has one already.
    async fn make_overlay(&self, machine: &Machine<'_>) -> Result<(), StartError> {
        let Some(disk) = &machine.image.disk else {
            return Ok(());
        };
        let overlay = command::overlay(machine.folder);
        if overlay.exists() {
            return Ok(());
        }
        let log = self.records.folder(machine.instance).join("qemu-img.log");
        let launch = self.launch(
            machine.instance,
            "disk",
            &self.config.qemu_img,
            &log,
            machine.folder,
        );
        // Under another name until it is whole, since a half-made one would be taken for the disk.
        let new = machine.folder.join("disk.new");
        let format = machine.image.disk_format.as_str();
        let mut arguments: Vec<&std::ffi::OsStr> = Vec::new();
        arguments.extend(["create", "-q", "-f", "qcow2", "-F", format, "-b"].map(std::ffi::OsStr::new));
        arguments.extend([disk.as_os_str(), new.as_os_str()]);
        let mut process = launch
            .start(arguments, Stdio::null())
            .map_err(cannot("start qemu-img"))?;
        let ending = process.ended().await;
        if ending != Exit::Exited(0) {
            let said = last_line(&log);
            let what = "qemu-img";
            return Err(StartError::EndedEarly { what, ending, said });
        }
        std::fs::rename(&new, &overlay).map_err(cannot("name the VM's disk"))
    }
}
