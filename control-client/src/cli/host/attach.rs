//! VMs of other VM managers: attached to the host daemon, and detached.

use std::path::{Path, PathBuf};

use clap::Args;
use moorline_shared::host::{Channel, ProcessRef, Register, Registered, Supervision, Unregister};

use super::Local;
use crate::cli::beginning::BeginningArgs;
use crate::cli::failure::{Failure, With};
use crate::host_socket::{HostSocket, register_socket};

const ATTACH_USAGE: &str =
    "moorline host attach [OPTIONS] <--path <PATH>|--cid <CID>> <--pid <PID>|--unsupervised>";

const ATTACH_EXAMPLES: &str = "\
Examples:
  moorline host attach --path /run/firecracker/web/vsock.sock --pid 4242 --name web --data app/mode=blue
  moorline host attach --cid 7 --pid 4242 --instance web
  moorline host attach --path /srv/vms/web.vsock --device-pid 4241 --unsupervised

A VM that is attached begins another life of its instance. So a guest that has lost its link key is helped by attaching its
running VM again, with --instance and where it is.

Whoever may attach a VM can read the secrets of every instance that it attaches.";

#[derive(Debug, Args)]
#[command(after_help = ATTACH_EXAMPLES, override_usage = ATTACH_USAGE)]
pub(in crate::cli) struct AttachArgs {
    #[command(flatten)]
    channel: ChannelArgs,
    /// The process that connects to the path, if that is not the VMM itself, such as vhost-device-vsock.
    #[arg(long, value_name = "PID", requires = "path")]
    device_pid: Option<u32>,
    #[command(flatten)]
    supervision: SupervisionArgs,
    /// Which instance the VM is: a name, an id, the beginning of an id, or the VM's UUID; a new one if absent.
    #[arg(long)]
    instance: Option<String>,
    /// A name for people, for a new instance.
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    beginning: BeginningArgs,
    #[command(flatten)]
    socket: SocketArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ChannelArgs {
    /// The hybrid vsock that the VMM was given (its `uds_path`).
    #[arg(long)]
    path: Option<PathBuf>,
    /// The context id that the VM was given, for the kernel's vsock.
    #[arg(long, value_parser = clap::value_parser!(u32).range(3..=4_294_967_294))]
    cid: Option<u32>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct SupervisionArgs {
    /// The VMM's process: its end ends the VM's life.
    #[arg(long)]
    pid: Option<u32>,
    /// No process says when the VM ends: you detach it, and until then the next VM on its channel is taken for it.
    #[arg(long)]
    unsupervised: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DetachArgs {
    /// A name, an id, the beginning of an id, or the VM's UUID.
    instance: String,
    #[command(flatten)]
    socket: SocketArgs,
}

#[derive(Debug, Args)]
struct SocketArgs {
    /// The host daemon's socket for VM managers, by default that of the service, or of `moorline up`.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl SocketArgs {
    fn socket(self) -> Result<HostSocket, Failure> {
        let path = self.socket.unwrap_or_else(register_socket);
        Ok(HostSocket::new(&path)?)
    }
}

pub(super) async fn attach(args: AttachArgs, local: &mut Local<'_>) -> Result<(), Failure> {
    let instance = match &args.instance {
        Some(text) => Some(local.instance(text).await?),
        None => None,
    };
    let body = Register {
        instance,
        key: Some(local.key.clone()),
        data: args.beginning.entries()?,
        channel: channel(args.channel, args.device_pid)?,
        supervision: supervision(&args.supervision)?,
        name: args.name,
        tags: args.beginning.tags,
        roles: args.beginning.roles.into_iter().collect(),
    };
    let registered = args.socket.socket()?.register(&body).await;
    let registered = registered.map_err(|error| {
        Failure::from(error).with(With {
            key: body.key.clone(),
            token: None,
        })
    })?;
    local.out.show(&registered, told)
}

fn told(registered: &Registered) -> String {
    format!(
        "attached as {}, in life {} of its VM",
        registered.instance, registered.incarnation
    )
}

pub(super) async fn detach(args: DetachArgs, local: &mut Local<'_>) -> Result<(), Failure> {
    let instance = local.instance(&args.instance).await?;
    let body = Unregister { instance };
    args.socket.socket()?.unregister(&body).await?;
    local
        .out
        .show(&body, |body| format!("detached {}", body.instance))
}

fn channel(args: ChannelArgs, device_pid: Option<u32>) -> Result<Channel, Failure> {
    match (args.path, args.cid) {
        (Some(path), _) => {
            let whole = std::path::absolute(&path);
            let shown = path.display().to_string();
            Ok(Channel::Hybrid {
                path: whole.map_err(|error| Failure::argument("a path", shown, error))?,
                device: device_pid.map(process).transpose()?,
            })
        }
        (None, Some(cid)) => Ok(Channel::Vsock { cid }),
        (None, None) => unreachable!("the command line has one of the two"),
    }
}

fn supervision(args: &SupervisionArgs) -> Result<Supervision, Failure> {
    match args.pid {
        Some(pid) => process(pid).map(Supervision::Vmm),
        None => Ok(Supervision::Unsupervised),
    }
}

/// The process that has this id now. Its start is named too, so that one that takes over the id meanwhile is not
/// taken for it.
fn process(pid: u32) -> Result<ProcessRef, Failure> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    let stat = stat.map_err(|error| Failure::argument("a process", pid.to_string(), error))?;
    Ok(ProcessRef {
        pid,
        started: start_of(&stat),
    })
}

/// Field 22 of `/proc/PID/stat` (`proc_pid_stat(5)`). The second field is the program's name in parentheses, and may
/// have spaces and parentheses in it.
fn start_of(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{process, start_of};

    #[test]
    fn a_process_is_known_by_its_start() {
        let stat =
            "42 (a) b c) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1000 1 18446744073709551615";
        assert_eq!(start_of(stat), Some(987_654));
        assert_eq!(start_of("42"), None);
        let own = process(std::process::id()).unwrap();
        assert!(own.started.is_some_and(|ticks| ticks > 0));
        assert!(process(u32::MAX).is_err());
    }
}
