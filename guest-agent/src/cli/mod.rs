//! The command line. [`args`] reads it into types before anything is done; [`client`] speaks with the daemon over its
//! socket; [`show`] writes for people and for programs, and [`credentials`] in the forms that other programs read.
//!
//! Exit codes: 0 done, 1 it failed, 2 the command line is wrong, 3 there is no such entry, 4 the agent or the host can't
//! be reached, 5 nobody can say yet whether it was done.

mod args;
mod client;
mod credentials;
mod help;
mod show;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::platform::{start_log, write_no_cores};
use args::{Command, Query};
use client::ClientError;

/// Why a command failed, and with which exit code.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Usage(#[from] args::UsageError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{}", .0)]
    Run(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Client(error) => error.exit_code(),
            Self::Run(_) => 1,
        }
    }
}

/// Runs the command line and returns its exit code. Everything it waits for is on this thread.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match args::parse(arguments).map_err(Failure::from).and_then(execute) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell if standard error is gone.
            let _ = writeln!(std::io::stderr(), "moorline-agent: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

fn execute(command: Command) -> Result<(), Failure> {
    match command {
        Command::Help(text) => {
            // A reader that has seen enough is no failure.
            let _ = std::io::stdout().write_all(text.as_bytes());
            Ok(())
        }
        Command::Run { config, level } => {
            start_log(level);
            write_no_cores()
                .map_err(|error| Failure::Run(format!("the kernel may write a core file: {error}")))?;
            on_this_thread(daemon(&config))
        }
        Command::Ask { socket, query } => on_this_thread(ask(&socket, &query)),
    }
}

fn on_this_thread(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    let runtime =
        runtime.map_err(|error| Failure::Run(format!("the kernel gives no event queue: {error}")))?;
    runtime.block_on(work)
}

async fn daemon(config: &Config) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let signals =
        |kind| signal(kind).map_err(|error| Failure::Run(format!("can't wait for signals: {error}")));
    let (mut terminate, mut interrupt) = (
        signals(SignalKind::terminate())?,
        signals(SignalKind::interrupt())?,
    );
    let stopping = async {
        // Either signal ends the wait; the other one is then of no interest.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stop.cancel();
    };
    let mut stopping = std::pin::pin!(stopping);
    let mut running = std::pin::pin!(crate::run(config, &stop));
    // The daemon ends when it is told to; both futures are kept across the wait.
    let ended = tokio::select! {
        ended = &mut running => ended,
        () = &mut stopping => running.await,
    };
    ended.map_err(|error| Failure::Run(with_causes(&error)))
}

fn with_causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

async fn ask(socket: &std::path::Path, query: &Query) -> Result<(), Failure> {
    let mut client = client::Client::connect(socket).await?;
    client.ask(query).await.map_err(Failure::from)
}
