//! Text for people: columns, ages, and nothing that moves a cursor.

use std::borrow::Cow;
use std::fmt;

use moorline_shared::Timestamp;
use moorline_shared::entry::Value;

/// Rows under a heading, each column as wide as its widest cell.
pub(super) struct Table<const COLUMNS: usize> {
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub(super) fn new(heading: [&str; COLUMNS]) -> Self {
        Self {
            rows: vec![heading.map(str::to_owned)],
        }
    }

    pub(super) fn row(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells.map(|cell| one_line(&cell).into_owned()));
    }

    fn widths(&self) -> [usize; COLUMNS] {
        std::array::from_fn(|column| {
            let widths = self.rows.iter().map(|row| row[column].chars().count());
            widths.max().unwrap_or(0)
        })
    }
}

impl<const COLUMNS: usize> fmt::Display for Table<COLUMNS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        for row in &self.rows {
            let cells = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Names and values, one pair a line.
pub(super) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| format!("{name:width$}  {}\n", one_line(value));
    pairs.iter().map(line).collect()
}

/// The text with everything escaped that could move the cursor or hide what is written, except the ends of lines
/// and tabs: what a guest wrote must not speak to the reader's terminal.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |c| matches!(c, '\n' | '\t'))
}

/// The same, on one line.
pub(super) fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

fn escaped(text: &str, keeps: impl Fn(char) -> bool) -> Cow<'_, str> {
    let hidden = |c: char| !keeps(c) && (c.is_control() || is_format(c));
    if !text.contains(hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if hidden(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// Unicode's controls of direction and zero-width characters, which reorder or hide text.
const fn is_format(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}'
        | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// A value in a cell: text of at most `most` characters, or how many bytes there are.
pub(super) fn preview(value: &Value, most: usize) -> String {
    let Some(text) = value.text() else {
        return format!("({})", bytes(value.len()));
    };
    let text = one_line(text);
    match text.char_indices().nth(most) {
        None => text.into_owned(),
        Some((end, _)) => format!("{}... ({})", &text[..end], bytes(value.len())),
    }
}

fn bytes(count: usize) -> String {
    match count {
        1 => "1 byte".to_owned(),
        count => format!("{count} bytes"),
    }
}

/// How long ago `then` was, in its largest unit.
pub(super) fn age(then: Timestamp, now: Timestamp) -> String {
    period(then.millis_until(now) / 1000)
}

/// A period in its largest unit.
pub(super) fn period(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The present, by this machine's clock.
pub(super) fn now() -> Timestamp {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    let millis = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(millis).expect("the clock is within the calendar")
}

/// What is there, or a dash.
pub(super) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::{Table, age, pairs, preview, printable};
    use moorline_shared::Timestamp;
    use moorline_shared::entry::Value;

    #[test]
    fn columns_line_up_and_a_cell_is_one_line() {
        let mut table = Table::new(["NAME", "STATE"]);
        table.row(["w\u{e9}b".to_owned(), "running".to_owned()]);
        table.row(["a\nlong\u{1b}[2Jname".to_owned(), String::new()]);
        insta::assert_snapshot!(table, @r"
        NAME                  STATE
        wéb                   running
        a\nlong\u{1b}[2Jname
        ");
        insta::assert_snapshot!(pairs(&[("id", "1".into()), ("state", "on".into())]), @r"
        id     1
        state  on
        ");
    }

    #[test]
    fn nothing_a_guest_wrote_moves_the_cursor() {
        assert_eq!(printable("a\tb\n"), "a\tb\n");
        assert_eq!(
            printable("\u{1b}]0;x\u{7}\r\u{9b}\u{202e}"),
            r"\u{1b}]0;x\u{7}\r\u{9b}\u{202e}"
        );
        assert_eq!(
            printable("a\u{ad}b\u{2028}c\u{e0041}"),
            r"a\u{ad}b\u{2028}c\u{e0041}"
        );
        assert_eq!(preview(&Value::from("abcdef"), 3), "abc... (6 bytes)");
        assert_eq!(
            preview(&Value::from(bytes::Bytes::from_static(b"\xff\0")), 3),
            "(2 bytes)"
        );
    }

    #[test]
    fn ages_are_told_in_their_largest_unit() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000).unwrap();
        let ages = [0, 59, 60, 7_199, 86_399, 86_400, 3_000_000].map(|seconds| age(at(0), at(seconds)));
        assert_eq!(ages, ["0s", "59s", "1m", "1h", "23h", "1d", "34d"]);
        assert_eq!(age(at(10), at(0)), "0s");
    }
}
