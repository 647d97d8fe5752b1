//! How the daemons log: to the standard error, as text for people and journals or as JSON for programs.
//!
//! What others say of themselves, guests above all, ends up in fields of lines; nothing of it can end a line, begin another
//! or speak to a terminal, because every control character is escaped on its way out.
//!
//! | `MOORLINE_LOG_FORMAT` | where the standard error goes | what a line is |
//! |---|---|---|
//! | `text` or nothing | to systemd's journal | its priority for the journal, its source, the message, the fields |
//! | `text` or nothing | elsewhere | time, level, source, message, fields; in colours at a terminal |
//! | `json` | anywhere | one object: `timestamp`, `level`, `target`, `message`, and the fields beside them |

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::fs::MetadataExt as _;

use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The environment asks for a form that there isn't.
    #[error("MOORLINE_LOG_FORMAT is '{0}'; it must be text or json")]
    Format(String),
    /// The environment's rules of what is logged are not well formed.
    #[error("MOORLINE_LOG is no level and no list of rules such as moorline_host::link=debug,warn")]
    Rules(#[from] ParseError),
    /// A rule is a word that is no level: one with a slip in it, as nobody wants everything of a part of that name.
    #[error(
        "MOORLINE_LOG has '{0}'; it must be error, warn, info, debug, trace or off, or rules such as \
         moorline_host::link=debug,warn"
    )]
    Level(String),
    /// Another part of the process logs already.
    #[error("logging has begun already")]
    Begun(#[from] tracing_subscriber::util::TryInitError),
}

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// For a person at a terminal.
    Coloured,
    /// For a file.
    Plain,
    /// For systemd's journal, which has times of its own.
    Journal,
    /// For a program.
    Json,
}

impl Form {
    /// As the environment and the standard error say.
    fn chosen() -> Result<Self, LogError> {
        match std::env::var("MOORLINE_LOG_FORMAT").as_deref() {
            Ok("json") => Ok(Self::Json),
            Ok("text" | "") | Err(_) if io::stderr().is_terminal() => Ok(Self::Coloured),
            Ok("text" | "") | Err(_) if is_journal() => Ok(Self::Journal),
            Ok("text" | "") | Err(_) => Ok(Self::Plain),
            Ok(other) => Err(LogError::Format(other.to_owned())),
        }
    }
}

/// Whether the standard error is the journal's. `JOURNAL_STREAM` says which file is (`systemd.exec(5)`), and whatever runs
/// below a unit inherits it, a session of a user or a job with a log of its own.
fn is_journal() -> bool {
    let said = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let file = std::fs::metadata("/proc/self/fd/2");
    file.is_ok_and(|file| names(&said, file.dev(), file.ino()))
}

/// Whether `DEVICE:INODE`, as text, is this file.
fn names(said: &str, device: u64, inode: u64) -> bool {
    said == format!("{device}:{inode}")
}

/// Begins to log what `MOORLINE_LOG` asks for, by default `least` and worse. Call it once, before anything is logged.
///
/// # Errors
/// [`LogError`] if the environment asks for a form that there isn't, or its rules are not well formed.
pub fn begin(least: Level) -> Result<(), LogError> {
    let said = std::env::var_os("MOORLINE_LOG").unwrap_or_default();
    let rules = rules(&said.to_string_lossy(), least)?;
    Ok(subscriber(Form::chosen()?, rules, io::stderr).try_init()?)
}

/// What is logged; `least` and worse if nothing is said.
fn rules(said: &str, least: Level) -> Result<EnvFilter, LogError> {
    if said.is_empty() {
        return Ok(EnvFilter::new(least.as_str()));
    }
    let words = said.split(',').filter(|rule| !rule.contains(['=', '[', '{']));
    for word in words.map(str::trim) {
        if word.parse::<LevelFilter>().is_err() {
            return Err(LogError::Level(word.to_owned()));
        }
    }
    Ok(EnvFilter::try_new(said)?)
}

fn subscriber<W: Write + 'static>(
    form: Form,
    filter: EnvFilter,
    to: impl Fn() -> W + Send + Sync + 'static,
) -> Box<dyn Subscriber + Send + Sync> {
    let lines = Makes { form, to };
    let base = tracing_subscriber::fmt().with_env_filter(filter);
    match form {
        Form::Json => Box::new(
            base.json()
                .flatten_event(true)
                .with_span_list(false)
                .with_writer(lines)
                .finish(),
        ),
        Form::Journal => Box::new(base.event_format(Prioritised::new()).with_writer(lines).finish()),
        Form::Coloured | Form::Plain => {
            Box::new(base.with_ansi(form == Form::Coloured).with_writer(lines).finish())
        }
    }
}

/// Makes what lines are written to.
struct Makes<F> {
    form: Form,
    to: F,
}

impl<W: Write, F: Fn() -> W> MakeWriter<'_> for Makes<F> {
    type Writer = Lines<W>;

    fn make_writer(&self) -> Lines<W> {
        Lines {
            form: self.form,
            to: (self.to)(),
        }
    }
}

/// Takes a line at a time, and lets nothing through that could be taken for more than one or for a terminal's orders.
struct Lines<W> {
    form: Form,
    to: W,
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        self.to.write_all(escaped(&text, self.form).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// The line, with its end and without any other control character.
fn escaped(line: &str, form: Form) -> String {
    let (text, end) = line.strip_suffix('\n').map_or((line, ""), |text| (text, "\n"));
    let mut shown = String::with_capacity(line.len());
    for (at, c) in text.char_indices() {
        match form {
            Form::Coloured if is_colour(&text[at..]) => shown.push(c),
            _ if !is_hidden(c) => shown.push(c),
            // Below U+0020 JSON has none any more; the others only stand in its texts. A string takes what is written.
            Form::Json => drop(write!(shown, "\\u{:04x}", u32::from(c))),
            _ => shown.extend(c.escape_default()),
        }
    }
    shown.push_str(end);
    shown
}

/// Whether the text begins with one of the orders that the library colours lines by. Nothing worse than a colour comes of
/// one that a guest has written.
fn is_colour(text: &str) -> bool {
    let order = text.strip_prefix("\u{1b}[").and_then(|rest| rest.split_once('m'));
    order.is_some_and(|(order, _)| {
        matches!(
            order,
            "0" | "1" | "2" | "3" | "31" | "32" | "33" | "34" | "35" | "36"
        )
    })
}

/// Control characters, and those of Unicode that turn or break a line.
fn is_hidden(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text for the journal: it takes the priority from the line's beginning (`sd-daemon(3)`) and knows the time.
struct Prioritised(Format<Full, ()>);

impl Prioritised {
    fn new() -> Self {
        Self(
            tracing_subscriber::fmt::format()
                .without_time()
                .with_level(false)
                .with_ansi(false),
        )
    }
}

impl<S, N> FormatEvent<S, N> for Prioritised
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        write!(to, "<{priority}>")?;
        self.0.format_event(context, to, event)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use tracing::Level;
    use tracing_subscriber::EnvFilter;

    use super::{Form, names, rules, subscriber};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What a guest would like to see in a log: another line, an order to the terminal, a line that reads backwards.
    const HOSTILE: &str = "x\nERROR made up\r\u{1b}[2J\u{9b}31m\u{7f}\u{202e}";

    fn logged(form: Form) -> String {
        let kept = Kept::default();
        let to = kept.clone();
        let subscriber = subscriber(form, EnvFilter::new("info"), move || to.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(build = %HOSTILE, session = 7, "a guest says: {HOSTILE}");
            tracing::debug!("nobody asked for this");
        });
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn control_characters_of_a_guest_end_no_line_and_reach_no_terminal() {
        for form in [Form::Plain, Form::Journal, Form::Json, Form::Coloured] {
            let text = logged(form);
            assert_eq!(text.matches('\n').count(), 1, "{form:?}: {text}");
            let line = text.strip_suffix('\n').unwrap();
            let passes = |at: usize| form == Form::Coloured && super::is_colour(&line[at..]);
            let mut hidden = line.char_indices().filter(|(_, c)| super::is_hidden(*c));
            let through = hidden.find(|(at, _)| !passes(*at));
            assert_eq!(through, None, "{form:?}: {line:?}");
        }
    }

    #[test]
    fn a_slip_in_the_rules_is_told() {
        for said in [
            "",
            "debug",
            "moorline_host::link=debug,warn",
            "off",
            "[guest{instance=i-1}]=trace",
        ] {
            rules(said, Level::INFO).unwrap_or_else(|error| panic!("{said}: {error}"));
        }
        assert_eq!(rules("", Level::WARN).unwrap().to_string(), "warn");
        for said in ["wran", "info,wran", "moorline_host=loud"] {
            let error = rules(said, Level::INFO).unwrap_err().to_string();
            assert!(error.starts_with("MOORLINE_LOG"), "{said}: {error}");
        }
    }

    #[test]
    fn only_the_file_that_the_service_manager_names_is_the_journal() {
        assert!(names("9:12", 9, 12));
        for said in ["9:13", "8:12", "9", "", "x:y"] {
            assert!(!names(said, 9, 12), "{said}");
        }
    }

    #[test]
    fn lines_of_json_have_stable_fields() {
        let line: serde_json::Value = serde_json::from_str(&logged(Form::Json)).unwrap();
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["session"], 7);
        assert_eq!(line["build"], HOSTILE, "what was said can be had back");
        assert!(
            line["target"]
                .as_str()
                .unwrap()
                .starts_with("moorline_daemon::logs")
        );
        assert!(line["message"].as_str().unwrap().starts_with("a guest says: x"));
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
    }

    #[test]
    fn the_journal_is_told_how_bad_it_is_and_not_when() {
        let line = logged(Form::Journal);
        assert!(line.starts_with("<4>moorline_daemon::logs"), "{line}");
        assert!(logged(Form::Plain).starts_with("20"), "a file has times");
    }
}
