//! The moorline command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    moorline_client::cli::main()
}
