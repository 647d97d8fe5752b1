//! `moorline-host`: the host daemon. Options, logging, signals; everything else is the library.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use moorline_host::config::Config;
use moorline_host::cores;
use moorline_host::daemon::{self, Daemon};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Keeps the data of each instance on this host and serves each instance what it may have, and nothing more.
#[derive(Debug, Parser)]
#[command(name = "moorline-host", version)]
struct Options {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/moorline/host.toml")]
    config: PathBuf,
    /// Reads the configuration and the token that it names, says whether they are good, and ends.
    #[arg(long)]
    check: bool,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let filter = EnvFilter::try_from_env("MOORLINE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Colours are for terminals; in a journal they are garbage.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    cores::write_none()?;
    let config = Config::read(&options.config)?;
    if options.check {
        daemon::token(&config)?;
        println!("the configuration is good");
        return Ok(());
    }
    // Guests are served by the shards' own threads; everything else waits most of the time, and one thread is enough.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    runtime.block_on(serve(&config))
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
