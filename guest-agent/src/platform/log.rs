//! Events as lines on standard error, for the journal to date and keep.
//!
//! A level is all the filter there is: the usual subscriber with its registry and patterns would be a tenth of the
//! program. Spans are let go; the events here carry what they need as fields.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Metadata, Subscriber};

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(tracing::Level);

impl Default for Level {
    fn default() -> Self {
        Self(tracing::Level::INFO)
    }
}

/// The text names no level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a log level is one of error, warn, info, debug, trace")]
pub struct LevelError;

impl std::str::FromStr for Level {
    type Err = LevelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| LevelError)
    }
}

/// Begins to write events of `level` and above. A second call in one process changes nothing.
pub fn start_log(level: Level) {
    // Only a second call fails.
    let _ = tracing::subscriber::set_global_default(Lines(level.0));
}

struct Lines(tracing::Level);

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.0
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(self.0.into())
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().as_str().to_ascii_lowercase());
        event.record(&mut line);
        line.0.push('\n');
        // Nobody is left to tell if standard error is gone.
        let _ = std::io::stderr().write_all(line.0.as_bytes());
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Line(String);

impl Line {
    /// Control characters from outside must not draw on a terminal or begin another line.
    fn push(&mut self, text: &str) {
        for c in text.chars() {
            if c.is_control() {
                self.0.extend(c.escape_default());
            } else {
                self.0.push(c);
            }
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // Writing to a string can't fail.
        let _ = write!(text, "{value:?}");
        self.0.push(' ');
        if field.name() != "message" {
            self.0.push_str(field.name());
            self.0.push('=');
        }
        self.push(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::{Level, Line};

    #[test]
    fn levels_have_names() {
        assert!("debug".parse::<Level>().is_ok());
        assert!("loud".parse::<Level>().is_err());
    }

    #[test]
    fn control_bytes_are_escaped() {
        let mut line = Line(String::new());
        line.push("a\n\u{1b}[31mb");
        assert_eq!(line.0, "a\\n\\u{1b}[31mb");
    }
}
