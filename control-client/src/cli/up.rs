//! `moorline up`: becomes the program that links both daemons, which this command doesn't.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use super::failure::Failure;

/// The program, which is installed beside this one or in `PATH`.
const PROGRAM: &str = "moorline-up";

#[derive(Debug, Args)]
pub(super) struct UpArgs {
    /// What the program is told; --help says what there is.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<OsString>,
}

/// Becomes that program. It returns only where it can't.
pub(super) fn run(args: &UpArgs) -> Failure {
    let program = beside().unwrap_or_else(|| PROGRAM.into());
    let error = Command::new(&program).args(&args.options).exec();
    Failure::Program {
        program,
        source: error,
    }
}

/// The program beside this one.
fn beside() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok()?.with_file_name(PROGRAM);
    beside.exists().then_some(beside)
}
