//! `moorline-host`: the host daemon. Options, logging, signals; everything else is the library.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use moorline_daemon::{cores, logs};
use moorline_host::config::Config;
use moorline_host::daemon::{self, Daemon};
use moorline_host::identity::enrol::{Former, enrol};
use moorline_shared::enrolment::EnrolmentToken;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const AFTER_HELP: &str = "\
Examples:
  moorline-host enroll - < host-2.token
  moorline-host --config /etc/moorline/host.toml --check
  moorline-host --config /etc/moorline/host.toml

Environment:
  MOORLINE_LOG  what is logged to the standard error: error, warn, info, debug or trace, or
                rules as in moorline_host::link=debug,warn [default: info]
  MOORLINE_LOG_FORMAT  text or json [default: text]";

/// Keeps the data of each instance on this host and serves each instance what it may have, and nothing more.
#[derive(Debug, Parser)]
#[command(name = "moorline-host", version, args_conflicts_with_subcommands = true, after_help = AFTER_HELP)]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/moorline/host.toml")]
    config: PathBuf,
    /// Reads the configuration and the host's identity, says whether they are good, and ends.
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes this machine a host of the control plane that made the token.
    Enroll {
        /// What `moorline host enroll-token` printed. Give -, and the token on the standard input: what stands on a command
        /// line is seen in the list of processes and kept by shells.
        token: String,
        /// The folder of the daemon's state, as its configuration has it.
        #[arg(long, value_name = "FOLDER", default_value = "/var/lib/moorline/host")]
        state: PathBuf,
        /// Makes it this host even if it is another one now.
        #[arg(long)]
        replace: bool,
    },
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    logs::begin(tracing::Level::INFO)?;
    cores::write_none()?;
    if let Some(Command::Enroll {
        token,
        state,
        replace,
    }) = options.command
    {
        let former = if replace { Former::Replace } else { Former::Keep };
        return enroll(&token, &state, former);
    }
    let config = Config::read(&options.config)?;
    if options.check {
        daemon::identity(&config)?;
        println!("the configuration is good");
        return Ok(());
    }
    runtime()?.block_on(serve(&config))
}

/// Guests are served by the shards' own threads; everything else waits most of the time, and one thread is enough.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().context("no runtime")
}

fn enroll(token: &str, state: &Path, former: Former) -> anyhow::Result<()> {
    let token: EnrolmentToken = match token {
        "-" => std::io::read_to_string(std::io::stdin())?.trim().parse()?,
        text => text.trim().parse()?,
    };
    let present = runtime()?.block_on(enrol(&token, state, former))?;
    let (_, until) = present.validity();
    println!(
        "this machine is host {}, with a certificate until {until} that the daemon renews: start moorline-host",
        token.host
    );
    Ok(())
}

async fn serve(config: &Config) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let daemon = Daemon::open(config)?;
    tracing::info!(host = %config.host, "the host daemon serves");
    let _ = sd_notify::notify(false, &[NotifyState::Ready]);
    let cancel = CancellationToken::new();
    let mut running = std::pin::pin!(daemon.run(cancel.clone()));
    tokio::select! {
        // Cancel-safe: signals that were not taken are kept, and the daemon is polled on below.
        ended = &mut running => return Ok(ended?),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("the host daemon ends; VMs run on");
    let _ = sd_notify::notify(false, &[NotifyState::Stopping]);
    cancel.cancel();
    Ok(running.await?)
}
