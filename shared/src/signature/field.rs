//! What of structured fields (RFC 8941) signatures need: dictionaries, strings, integers and byte sequences. Stricter
//! than the RFC: nothing may be there twice, and everything has a bound.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The longest field, in bytes.
pub const MAX_FIELD_BYTES: usize = 4096;
/// The most members of a dictionary.
const MAX_MEMBERS: usize = 4;
/// The longest string, in characters.
const MAX_STRING: usize = 256;
/// The longest key, in characters.
const MAX_KEY: usize = 32;
/// The most digits of an integer.
const MAX_DIGITS: usize = 15;

/// Why a field is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// It, or something in it, is over its bound.
    #[error("it is too long, or has too many members")]
    TooLong,
    /// It isn't written as RFC 8941 says.
    #[error("it is not well formed")]
    Form,
    /// A member, a component or a parameter is there twice.
    #[error("it says something twice")]
    Twice,
    /// A component or a parameter that isn't known here.
    #[error("it says something that is not known here")]
    Unknown,
}

/// What is left of a field to be read.
pub(super) struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    pub(super) fn eat(&mut self, expected: char) -> bool {
        let rest = self.0.strip_prefix(expected);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    pub(super) fn expect(&mut self, expected: char) -> Result<(), FieldError> {
        self.eat(expected).then_some(()).ok_or(FieldError::Form)
    }

    /// Passes over spaces, and says whether there was one.
    pub(super) fn spaces(&mut self) -> bool {
        let rest = self.0.trim_start_matches(' ');
        let any = rest.len() < self.0.len();
        self.0 = rest;
        any
    }

    fn take_while(&mut self, most: usize, take: impl Fn(u8) -> bool) -> Result<&'a str, FieldError> {
        let length = self.0.bytes().take_while(|byte| take(*byte)).count();
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        if length > most {
            Err(FieldError::TooLong)
        } else {
            Ok(taken)
        }
    }

    pub(super) fn key(&mut self) -> Result<&'a str, FieldError> {
        let key = self.take_while(
            MAX_KEY,
            |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'*'),
        )?;
        let begins_well = key.starts_with(|c: char| c.is_ascii_lowercase() || c == '*');
        begins_well.then_some(key).ok_or(FieldError::Form)
    }

    pub(super) fn string(&mut self) -> Result<String, FieldError> {
        self.expect('"')?;
        let mut text = String::new();
        let mut characters = self.0.char_indices();
        while let Some((at, character)) = characters.next() {
            let character = match character {
                '"' => {
                    self.0 = &self.0[at + 1..];
                    return Ok(text);
                }
                '\\' => match characters.next() {
                    Some((_, escaped @ ('"' | '\\'))) => escaped,
                    _ => return Err(FieldError::Form),
                },
                ' '..='~' => character,
                _ => return Err(FieldError::Form),
            };
            if text.len() == MAX_STRING {
                return Err(FieldError::TooLong);
            }
            text.push(character);
        }
        Err(FieldError::Form)
    }

    pub(super) fn integer(&mut self) -> Result<i64, FieldError> {
        let sign = if self.eat('-') { -1 } else { 1 };
        let digits = self.take_while(MAX_DIGITS, |b| b.is_ascii_digit())?;
        digits
            .parse::<i64>()
            .map(|number| sign * number)
            .map_err(|_| FieldError::Form)
    }
}

/// The members of a dictionary, in their order. No key may be there twice.
pub(super) fn dictionary<T>(
    text: &str,
    mut member: impl FnMut(&mut Cursor<'_>) -> Result<T, FieldError>,
) -> Result<Vec<(String, T)>, FieldError> {
    if text.len() > MAX_FIELD_BYTES {
        return Err(FieldError::TooLong);
    }
    let mut cursor = Cursor(text.trim_matches(' '));
    let mut members: Vec<(String, T)> = Vec::new();
    loop {
        let key = cursor.key()?;
        if members.iter().any(|(known, _)| known == key) {
            return Err(FieldError::Twice);
        }
        if members.len() == MAX_MEMBERS {
            return Err(FieldError::TooLong);
        }
        cursor.expect('=')?;
        members.push((key.to_owned(), member(&mut cursor)?));
        cursor.spaces();
        if cursor.0.is_empty() {
            return Ok(members);
        }
        cursor.expect(',')?;
        cursor.spaces();
    }
}

/// The members of a dictionary of byte sequences.
pub(super) fn byte_sequences(text: &str) -> Result<Vec<(String, Vec<u8>)>, FieldError> {
    dictionary(text, bytes)
}

fn bytes(from: &mut Cursor<'_>) -> Result<Vec<u8>, FieldError> {
    from.expect(':')?;
    let text = from.take_while(MAX_FIELD_BYTES, |b| {
        b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=')
    })?;
    from.expect(':')?;
    STANDARD.decode(text).map_err(|_| FieldError::Form)
}

/// A string as it is written in a field.
pub(super) fn write_string(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("\"")?;
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            f.write_str("\\")?;
        }
        write!(f, "{character}")?;
    }
    f.write_str("\"")
}

/// Bytes as they are written in a field.
pub(super) fn written_bytes(bytes: &[u8]) -> String {
    format!(":{}:", STANDARD.encode(bytes))
}
