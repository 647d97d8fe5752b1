//! Where answers go, and in which form.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;

use super::failure::Failure;

/// The form of answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Tables and sentences, for people.
    #[default]
    Table,
    /// The bodies of the API, version 1, for programs.
    Json,
}

/// Who reads what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// A person: what is written must not move the cursor.
    Terminal,
    /// A file or a program: bytes are bytes.
    Program,
}

/// The standard output.
pub(super) struct Out {
    format: Format,
    reader: Reader,
    to: Box<dyn Write>,
}

impl Out {
    pub(super) fn stdout(format: Format) -> Self {
        let stdout = io::stdout();
        let reader = if stdout.is_terminal() {
            Reader::Terminal
        } else {
            Reader::Program
        };
        Self {
            format,
            reader,
            to: Box::new(stdout),
        }
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    pub(super) fn reader(&self) -> Reader {
        self.reader
    }

    /// Writes a body: as it is, or as `people` puts it.
    pub(super) fn show<T: Serialize>(
        &mut self,
        body: &T,
        people: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.text(&people(body)),
            Format::Json => {
                let json = serde_json::to_string_pretty(body).map_err(Failure::Unwritable)?;
                self.text(&json)
            }
        }
    }

    /// Writes one event of a stream: a line of JSON, or as `people` puts it.
    pub(super) fn event<T: Serialize>(
        &mut self,
        event: &T,
        people: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.text(&people(event)),
            Format::Json => {
                let json = serde_json::to_string(event).map_err(Failure::Unwritable)?;
                self.text(&json)
            }
        }
    }

    /// Writes a text and ends its last line, unless it is empty.
    pub(super) fn text(&mut self, text: &str) -> Result<(), Failure> {
        if text.is_empty() {
            return Ok(());
        }
        let end = if text.ends_with('\n') { "" } else { "\n" };
        self.bytes(text.as_bytes())?;
        self.bytes(end.as_bytes())
    }

    /// Writes bytes as they are.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.to.write_all(bytes).and_then(|()| self.to.flush());
        written.map_err(Failure::Output)
    }
}

/// Says something on the side that is no part of the answer.
pub(super) fn note(text: &str) {
    // Where the standard error is gone, nobody is there to be told.
    let _ = writeln!(io::stderr(), "{}", super::table::printable(text));
}
