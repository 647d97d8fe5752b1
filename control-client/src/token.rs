//! The secret that a caller shows to the control plane.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use http::HeaderValue;

/// A bearer token: 1 to 4,096 printable ASCII characters without spaces. It can be sent and not shown: there is no
/// `Display`, and `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<str>);

impl Token {
    /// The longest token, in bytes.
    pub const MAX_BYTES: usize = 4096;

    /// Reads a token from a file that holds nothing else, but for white space behind it. Blocks for as long as the file's
    /// reading takes.
    ///
    /// # Errors
    /// [`TokenError::File`] if the file can't be read, [`TokenError::Form`] if what it holds is not a token.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let mut text = String::new();
        // Whatever is longer is not read to its end, and refused.
        let longest = Self::MAX_BYTES as u64 + 64;
        let read = File::open(path).and_then(|file| file.take(longest).read_to_string(&mut text));
        read.map_err(|source| TokenError::File {
            path: path.to_owned(),
            source,
        })?;
        text.trim_end().parse()
    }

    /// The `Authorization` header's value, marked so that nothing prints it.
    pub(crate) fn header(&self) -> HeaderValue {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.0))
            .expect("printable ASCII is what a header's value is made of");
        value.set_sensitive(true);
        value
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = (1..=Self::MAX_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(TokenError::Form)
        }
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Not of a token's form. What it was instead is not said: it may be a secret all the same.
    #[error("a token is 1 to {max} printable ASCII characters without spaces", max = Token::MAX_BYTES)]
    Form,
    /// The file can't be read.
    #[error("the token file {} can't be read", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::{Token, TokenError};
    use std::path::Path;

    #[test]
    fn a_token_is_never_shown() {
        let token: Token = "hunter2".parse().unwrap();
        assert!(!format!("{token:?} {:?}", token.header()).contains("hunter2"));
    }

    #[test]
    fn what_is_not_a_token_is_refused_without_being_shown() {
        for bad in ["", "with space", "line\nbreak", "caf\u{e9}", &"x".repeat(4097)] {
            let error = bad.parse::<Token>().unwrap_err().to_string();
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
    }

    #[test]
    fn a_file_holds_a_token_and_nothing_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc\r\n\n").unwrap();
        assert_eq!(Token::read(file.path()).unwrap(), "abc".parse().unwrap());
        for bad in ["abc\ndef\n".to_owned(), "x".repeat(Token::MAX_BYTES + 1)] {
            std::fs::write(file.path(), bad).unwrap();
            assert!(matches!(Token::read(file.path()), Err(TokenError::Form)));
        }
        // It has no end, and is not waited for.
        assert!(Token::read(Path::new("/dev/zero")).is_err());
        let missing = file.path().with_extension("missing");
        assert!(Token::read(&missing).unwrap_err().to_string().contains("missing"));
    }
}
