//! `moorline doctor`: looks at a host from all sides, and says what is wrong and what to do about it.
//!
//! `check` is what a look comes to; `host` asks the daemon and the control plane, `machine` looks at the kernel and its
//! devices, `state` at files. What this user can't look at is told, too: only root sees everything.

mod check;
mod host;
mod machine;
mod settings;
mod state;

use std::path::PathBuf;

use clap::Args;
use moorline_shared::host::HostStatus;

use self::check::{Check, Report, Verdict};
use self::settings::Settings;
use super::failure::Failure;
use super::out::Out;
use super::table::Table;
use crate::host_socket::HostSocket;

const EXAMPLES: &str = "\
Exit status: 0 if nothing failed, 1 otherwise. With --output json the report is an object with its `version`.

Examples:
  sudo moorline doctor
  sudo moorline -o json doctor | jq '.checks[] | select(.verdict == \"fail\")'";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DoctorArgs {
    /// The host daemon's configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/moorline/host.toml")]
    config: PathBuf,
}

/// Looks at everything, and fails if something failed.
pub(super) async fn run(args: DoctorArgs, out: &mut Out) -> Result<(), Failure> {
    let (configured, settings) = settings::read(&args.config);
    let status = status(&settings).await;
    let mut checks = vec![configured];
    host::daemon(&settings, &status, &mut checks);
    host::control_plane(&settings, &mut checks).await;
    let daemon = status.as_ref().ok();
    machine::devices(&settings, &mut checks);
    machine::capacity(&settings, &mut checks);
    machine::limits(daemon, &mut checks);
    state::folder(&settings, &mut checks);
    state::images(&settings, &mut checks);
    let report = Report::new(daemon.map(|status| status.host.to_string()), checks);
    out.show(&report, table)?;
    match report.count(Verdict::Fail) {
        0 => Ok(()),
        failed => Err(Failure::Unhealthy { failed }),
    }
}

async fn status(settings: &Settings) -> Result<HostStatus, String> {
    let socket = HostSocket::new(&settings.sockets.admin).map_err(|error| error.to_string())?;
    socket.status().await.map_err(|error| error.to_string())
}

fn table(report: &Report) -> String {
    let mut table = Table::new(["CHECK", "", "FOUND"]);
    for Check {
        name,
        verdict,
        found,
        advice,
    } in &report.checks
    {
        table.row([(*name).to_owned(), verdict.word().to_owned(), found.clone()]);
        if let Some(advice) = advice {
            table.row([String::new(), String::new(), format!("-> {advice}")]);
        }
    }
    table.to_string()
}
