//! Events as lines on standard error, for the journal to date and keep.
//!
//! A level is all the filter there is: the usual subscriber with its registry and patterns would be a tenth of the
//! program. Spans are let go; the events here carry what they need as fields.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;

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
    let _ = tracing::subscriber::set_global_default(Lines {
        level: level.0,
        reader: Reader::of_standard_error(),
    });
}

struct Lines {
    level: tracing::Level,
    reader: Reader,
}

/// Who reads the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// The journal, which takes a line's priority from its beginning (sd-daemon(3)).
    Journal,
    Other,
}

impl Reader {
    fn of_standard_error() -> Self {
        let file = std::fs::metadata("/proc/self/fd/2").map(|file| (file.dev(), file.ino()));
        Self::of(std::env::var("JOURNAL_STREAM").ok().as_deref(), file.ok())
    }

    /// `JOURNAL_STREAM` says which file is the journal's, which standard error need not be any more.
    fn of(said: Option<&str>, standard_error: Option<(u64, u64)>) -> Self {
        let journal = said.and_then(|said| said.split_once(':'));
        let number = |text: &str| text.parse().ok();
        let journal = journal.and_then(|(device, inode)| number(device).zip(number(inode)));
        if journal.is_some() && journal == standard_error {
            Self::Journal
        } else {
            Self::Other
        }
    }

    /// How a line of this level begins.
    fn prefix(self, level: tracing::Level) -> &'static str {
        match (self, level) {
            (Self::Other, _) => "",
            (Self::Journal, tracing::Level::ERROR) => "<3>",
            (Self::Journal, tracing::Level::WARN) => "<4>",
            (Self::Journal, tracing::Level::INFO) => "<6>",
            (Self::Journal, _) => "<7>",
        }
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(self.level.into())
    }

    fn event(&self, event: &Event<'_>) {
        let level = *event.metadata().level();
        let mut line = Line(self.reader.prefix(level).to_owned());
        line.0.push_str(&level.as_str().to_ascii_lowercase());
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
    use super::{Level, Line, Reader};

    #[test]
    fn levels_have_names() {
        assert!("debug".parse::<Level>().is_ok());
        assert!("loud".parse::<Level>().is_err());
    }

    #[test]
    fn the_journal_is_told_how_urgent_a_line_is() {
        let journal = Reader::of(Some("9:12"), Some((9, 12)));
        assert_eq!(journal.prefix(tracing::Level::WARN), "<4>");
        let others = [
            (None, Some((9, 12))),
            (Some("9:12"), Some((9, 13))),
            (Some("x"), None),
            (None, None),
        ];
        for (said, file) in others {
            assert_eq!(
                Reader::of(said, file).prefix(tracing::Level::WARN),
                "",
                "{said:?}"
            );
        }
    }

    #[test]
    fn control_bytes_are_escaped() {
        let mut line = Line(String::new());
        line.push("a\n\u{1b}[31mb");
        assert_eq!(line.0, "a\\n\\u{1b}[31mb");
    }
}
