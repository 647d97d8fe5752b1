//! What commands take in: values from the command line, files and the standard input, periods, pairs.

use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use moorline_shared::Ttl;
use moorline_shared::entry::{MAX_VALUE_BYTES, Value};

use super::failure::{Failure, InputName};

/// Where a value comes from: one of the three.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct ValueArgs {
    /// The value itself. Other users of this machine can see it in the list of processes: give secrets by a file
    /// or the standard input.
    #[arg(allow_negative_numbers = true)]
    value: Option<String>,
    /// Read the value from a file, byte for byte.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Read the value from the standard input, byte for byte.
    #[arg(long)]
    stdin: bool,
}

impl ValueArgs {
    /// Reads the value; blocks for as long as its source does.
    pub(super) fn read(self) -> Result<Value, Failure> {
        match (self.value, self.file) {
            (Some(text), _) => value_of_text(text),
            (None, Some(path)) => value_of_file(&path),
            (None, None) => value_of_stdin(),
        }
    }
}

/// A value from a file, or from the standard input if it is "-".
pub(super) fn value_of_source(name: &str) -> Result<Value, Failure> {
    match name {
        "-" => value_of_stdin(),
        file => value_of_file(Path::new(file)),
    }
}

fn value_of_stdin() -> Result<Value, Failure> {
    within_bound(InputName::Stdin, read_stdin(MAX_VALUE_BYTES + 1)?)
}

pub(super) fn value_of_text(text: String) -> Result<Value, Failure> {
    within_bound(InputName::Argument, text.into_bytes())
}

pub(super) fn value_of_file(path: &Path) -> Result<Value, Failure> {
    let bytes = read_file(path, MAX_VALUE_BYTES + 1)?;
    within_bound(InputName::File(path.to_owned()), bytes)
}

fn within_bound(name: InputName, bytes: Vec<u8>) -> Result<Value, Failure> {
    if bytes.len() > MAX_VALUE_BYTES {
        return Err(Failure::ValueTooLong(name));
    }
    Ok(Value::from(Bytes::from(bytes)))
}

/// At most `most` bytes of a file.
pub(super) fn read_file(path: &Path, most: usize) -> Result<Vec<u8>, Failure> {
    let name = || InputName::File(path.to_owned());
    let file = std::fs::File::open(path).map_err(|error| Failure::Input(name(), error))?;
    read(name(), file, most)
}

/// At most `most` bytes of the standard input.
pub(super) fn read_stdin(most: usize) -> Result<Vec<u8>, Failure> {
    read(InputName::Stdin, std::io::stdin().lock(), most)
}

fn read(name: InputName, from: impl Read, most: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    match from.take(most as u64).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(Failure::Input(name, error)),
    }
}

/// A validity period: a number of seconds, or of minutes, hours or days with `m`, `h` or `d` behind it.
pub(super) fn ttl(text: &str) -> Result<Ttl, String> {
    let (digits, unit) = match text.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        None => (text, 1),
        Some((at, 's')) if at + 1 == text.len() => (&text[..at], 1),
        Some((at, 'm')) if at + 1 == text.len() => (&text[..at], 60),
        Some((at, 'h')) if at + 1 == text.len() => (&text[..at], 3_600),
        Some((at, 'd')) if at + 1 == text.len() => (&text[..at], 86_400),
        Some(_) => return Err(FORM.to_owned()),
    };
    let count: u32 = digits.parse().map_err(|_| FORM)?;
    let seconds = count.saturating_mul(unit);
    Ttl::try_from(seconds).map_err(|error| error.to_string())
}

const FORM: &str = "write a number of seconds, or one with m, h or d behind it, as in 90, 15m or 7d";

/// `LEFT=RIGHT`, the left side parsed.
pub(super) fn pair<L>(text: &str) -> Result<(L, String), String>
where
    L: std::str::FromStr<Err: std::fmt::Display>,
{
    let (left, right) = text.split_once('=').ok_or("write PATH=VALUE")?;
    let left = left.parse().map_err(|error: L::Err| error.to_string())?;
    Ok((left, right.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{FORM, pair, ttl, value_of_text};
    use moorline_shared::EntryPath;
    use moorline_shared::entry::MAX_VALUE_BYTES;

    #[test]
    fn periods_are_numbers_with_a_unit() {
        for (text, seconds) in [
            ("90", 90),
            ("90s", 90),
            ("15m", 900),
            ("2h", 7_200),
            ("7d", 604_800),
        ] {
            assert_eq!(ttl(text).unwrap().seconds(), seconds);
        }
        for bad in [
            "",
            "m",
            "-1",
            "1.5h",
            "1h30m",
            "1w",
            "9999999999",
            "7 d",
            "\u{663}",
        ] {
            assert_eq!(ttl(bad), Err(FORM.to_owned()), "{bad}");
        }
        for bad in ["0", "4000000000", "200000d"] {
            assert!(ttl(bad).unwrap_err().contains("315360000"), "{bad}");
        }
    }

    #[test]
    fn a_pair_is_split_at_its_first_sign() {
        let (path, value) = pair::<EntryPath>("a/b=c=d").unwrap();
        assert_eq!((path.as_str(), value.as_str()), ("a/b", "c=d"));
        assert!(pair::<EntryPath>("a/b").is_err());
        assert!(pair::<EntryPath>("/a=b").is_err());
    }

    #[test]
    fn a_value_over_the_bound_is_refused_before_it_is_sent() {
        assert!(value_of_text("x".repeat(MAX_VALUE_BYTES)).is_ok());
        let error = value_of_text("x".repeat(MAX_VALUE_BYTES + 1))
            .unwrap_err()
            .to_string();
        assert!(error.contains("262144"), "{error}");
    }
}
