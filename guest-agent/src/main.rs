//! `moorline-agent`: the agent in the guest, and small clients of its socket.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use moorline_agent::cli;

fn main() -> ExitCode {
    cli::main(std::env::args_os())
}
