//! Passwords: typed without being shown, or read from the standard input.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};

use moorline_shared::secret::Secret;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::cli::failure::{Failure, InputName};
use crate::cli::input::read_stdin;

/// The most bytes of a password that are read.
const MAX_BYTES: usize = 4_096;

/// Reads a password from the terminal, or the first line of the standard input.
pub(in crate::cli) fn password(prompt: &str, from: From) -> Result<Secret, Failure> {
    match from {
        From::Stdin => {
            let bytes = read_stdin(MAX_BYTES)?;
            let text = String::from_utf8_lossy(&bytes);
            Ok(text.lines().next().unwrap_or_default().to_owned().into())
        }
        From::Terminal => typed(prompt).map_err(|error| Failure::Input(InputName::Terminal, error)),
    }
}

/// Where a password comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum From {
    Stdin,
    Terminal,
}

impl From {
    pub(in crate::cli) const fn stdin_if(stdin: bool) -> Self {
        if stdin { Self::Stdin } else { Self::Terminal }
    }
}

fn typed(prompt: &str) -> io::Result<Secret> {
    let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
    write!(terminal, "{prompt}: ")?;
    let silent = Silent::begin(&terminal)?;
    let mut line = String::new();
    let read = BufReader::new(&terminal)
        .take(MAX_BYTES as u64)
        .read_line(&mut line);
    drop(silent);
    writeln!(terminal)?;
    read?;
    let secret = Secret::from(line.trim_end_matches(['\n', '\r']).to_owned());
    Ok(secret)
}

/// A terminal that doesn't show what is typed, until this is dropped.
struct Silent<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Silent<'a> {
    fn begin(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        // Where the terminal is gone there is nothing to be put right.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}
