//! `moorline-control`: the control plane. Options, logging, signals; everything else is the library.

mod commands;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use moorline_control::config::Config;
use moorline_control::server::Server;
use moorline_daemon::{cores, logs};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const AFTER_HELP: &str = "\
Examples:
  moorline-control --state ~/moorline --listen 127.0.0.1:8471
  moorline-control --config /etc/moorline/control.toml --check
  moorline-control backup /var/backups/moorline.backup

Environment:
  MOORLINE_LOG  what is logged to the standard error: error, warn, info, debug or trace, or
                rules as in moorline_control::http=debug,warn [default: info]
  MOORLINE_LOG_FORMAT  text or json [default: text]";

/// Holds the master copy of all instances' data and serves the API that users, hosts and tools speak.
#[derive(Debug, Parser)]
#[command(name = "moorline-control", version, after_help = AFTER_HELP)]
struct Options {
    #[command(subcommand)]
    command: Option<commands::Command>,
    /// The configuration file; without one, every key has its default.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The folder of the store and of the administrator's token, instead of the configuration's; by default
    /// /var/lib/moorline/control.
    #[arg(long, value_name = "FOLDER", global = true)]
    state: Option<PathBuf>,
    /// Where the API listens, instead of the configuration's; by default 127.0.0.1:8471.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<std::net::SocketAddr>,
    /// Reads the configuration, says whether it is good, and ends.
    #[arg(long)]
    check: bool,
}

impl Options {
    fn config(&self) -> anyhow::Result<Config> {
        let mut config = self
            .config
            .as_deref()
            .map_or_else(|| Ok(Config::default()), Config::read)?;
        if let Some(state) = &self.state {
            config.state.clone_from(state);
        }
        config.listen = self.listen.unwrap_or(config.listen);
        Ok(config.checked()?)
    }
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    logs::begin(tracing::Level::INFO)?;
    cores::write_none()?;
    let config = options.config()?;
    if let Some(command) = options.command {
        return command.run(&config);
    }
    if options.check {
        println!("the configuration is good");
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    runtime.block_on(serve(&config))
}

async fn serve(config: &Config) -> anyhow::Result<()> {
    // Whoever is told that this is ready may end it at once.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let cancel = CancellationToken::new();
    let server = Server::open(config, cancel.clone()).await?;
    let (address, ca) = (server.address()?, server.authority());
    tracing::info!(%address, ca, state = %config.state.display(), "the control plane serves");
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
    let mut running = std::pin::pin!(server.run());
    tokio::select! {
        // Cancel-safe: signals that were not taken are kept, and the server is polled on below.
        result = &mut running => return Ok(result?),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("the control plane ends");
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
    cancel.cancel();
    Ok(running.await?)
}
