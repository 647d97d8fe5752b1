//! Completion of the command in shells.

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::{Shell, generate};

use super::args::Cli;
use super::failure::Failure;
use super::out::Out;

const EXAMPLES: &str = "\
Examples:
  moorline completion bash > ~/.local/share/bash-completion/completions/moorline
  moorline completion zsh > ~/.zfunc/_moorline
  moorline completion fish > ~/.config/fish/completions/moorline.fish";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CompletionCommand {
    /// Which shell the script is for.
    #[arg(value_enum)]
    shell: KnownShell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KnownShell {
    Bash,
    Zsh,
    Fish,
}

impl From<KnownShell> for Shell {
    fn from(shell: KnownShell) -> Self {
        match shell {
            KnownShell::Bash => Self::Bash,
            KnownShell::Zsh => Self::Zsh,
            KnownShell::Fish => Self::Fish,
        }
    }
}

pub(super) fn run(command: &CompletionCommand, out: &mut Out) -> Result<(), Failure> {
    let mut script = Vec::new();
    generate(
        Shell::from(command.shell),
        &mut Cli::command(),
        "moorline",
        &mut script,
    );
    out.bytes(&script)
}
