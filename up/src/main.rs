//! `moorline-up`: what `moorline up` runs. Options, logging, signals; everything else is the library.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use clap::Parser;
use moorline_client::LocalDeployment;
use moorline_daemon::{cores, logs};
use moorline_up::config;
use moorline_up::deployment::{Plan, Up};
use moorline_up::machine::Machine;
use rustix::process::geteuid;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const AFTER_HELP: &str = "\
Examples:
  moorline up
  moorline up --config up.toml          # images to boot, roles, and whatever else a host has

Environment:
  MOORLINE_STATE  the folder of the state; clients on this machine look there too
  MOORLINE_LOG    what is logged to the standard error: error, warn, info, debug or trace, or
                  rules as in moorline_host::link=debug,warn [default: warn]
  MOORLINE_LOG_FORMAT  text or json [default: text]";

/// Runs the control plane and the host daemon of this machine in one process, with nothing to set up.
///
/// The first start makes everything; later ones go on with it. The command `moorline` finds it by itself, unless
/// `--state` puts it elsewhere: then `MOORLINE_STATE` tells it. VMs run on when it ends, and are found again.
///
/// VMs run as whoever starts this. Started as root, they run as root, unless the configuration has `qemu.user_base`, which
/// gives each a user of its own: then the state, the images and the vsock device have to be where those users get at them,
/// as in /var/lib and not below /root.
#[derive(Debug, Parser)]
#[command(name = "moorline-up", bin_name = "moorline up", version, after_help = AFTER_HELP)]
struct Options {
    /// The folder of the state; by default ~/.local/state/moorline.
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Where the API listens.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8471")]
    listen: SocketAddr,
    /// What the host has, as in the configuration of moorline-host; what isn't there is as the machine has it. Its table
    /// `control_plane` is a configuration of moorline-control.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Options {
    fn plan(&self) -> anyhow::Result<Plan> {
        let absolute = |state| std::path::absolute(state).context("no folder for the state");
        let chosen = self
            .state
            .as_ref()
            .map(absolute)
            .transpose()?
            .map(LocalDeployment::at);
        let deployment = chosen.unwrap_or_else(LocalDeployment::of_process);
        let added = self.config.as_deref().map(config::read).transpose()?;
        let added = added.unwrap_or_default();
        Ok(Plan {
            control: config::control(&deployment, self.listen, &added)?,
            host: config::host(&deployment, &Machine::present(), added)?,
            deployment,
        })
    }
}

fn main() -> anyhow::Result<()> {
    let began = Instant::now();
    let options = Options::parse();
    logs::begin(tracing::Level::WARN)?;
    cores::write_none()?;
    let plan = options.plan()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    runtime.block_on(run(plan, began))
}

async fn run(plan: Plan, began: Instant) -> anyhow::Result<()> {
    // Whoever is told that this is ready may end it at once.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let told = told(&plan);
    let mut running = std::pin::pin!(plan.run(stop.clone(), move |up| {
        // Whoever started it may not listen any more.
        let _ = writeln!(std::io::stdout(), "{}", told(up, began));
        let _ = sd_notify::notify(false, &[NotifyState::Ready]);
    }));
    tokio::select! {
        // Cancel-safe: signals that were not taken are kept, and the deployment is polled on below.
        ended = &mut running => return Ok(ended?),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let _ = sd_notify::notify(false, &[NotifyState::Stopping]);
    stop.cancel();
    Ok(running.await?)
}

/// What people are told once it runs.
fn told(plan: &Plan) -> impl FnOnce(&Up, Instant) -> String + use<> {
    let (host, state) = (plan.host.clone(), plan.deployment.folder().display().to_string());
    move |up, began| {
        let images: Vec<_> = host.images.keys().map(ToString::to_string).collect();
        let images = match images.as_slice() {
            [] => "none: name some in a file, and give it with --config".to_owned(),
            images => images.join(", "),
        };
        let mut text = format!(
            "Moorline is up after {:.1} s. VMs run on when it ends (Ctrl-C), and are found again.\n\
             \x20 control plane  {}\n\
             \x20 host           {}, {} vCPUs and {} MiB for instances\n\
             \x20 images         {images}\n\
             \x20 state          {state}",
            began.elapsed().as_secs_f64(),
            up.url,
            up.host,
            host.capacity.vcpus,
            host.capacity.memory_mib,
        );
        if geteuid().is_root() && host.qemu.user_base.is_none() {
            text += "\nVMs run as root: give qemu.user_base in that file, or start this as another user.";
        }
        text
    }
}
