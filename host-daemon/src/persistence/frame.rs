//! What every file of the cache is wrapped in, so that a cut or a changed byte is found before anything is read:
//!
//! `magic(8) | version(4) | length of the body(4) | SHA-256 of all the rest(32) | body`, numbers little endian.
//!
//! This stays as it is for ever; what changes is the body, by another version.

use moorline_shared::Digest;

const MAGIC: usize = 8;
const VERSION_ENDS: usize = MAGIC + 4;
const LENGTH_ENDS: usize = VERSION_ENDS + 4;
const HEAD: usize = LENGTH_ENDS + 32;

/// What the file is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    View,
    Position,
}

impl Kind {
    const fn magic(self) -> [u8; MAGIC] {
        match self {
            Self::View => *b"MOORVIEW",
            Self::Position => *b"MOORPOSN",
        }
    }
}

/// Why a file of the cache can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Damage {
    #[error("it has {0} bytes, and its head alone has {HEAD}")]
    Short(usize),
    #[error("it doesn't begin as such a file does")]
    Magic,
    #[error("{said} bytes are said to follow its head, and {has} do")]
    Length { said: u32, has: usize },
    #[error("its bytes are not those that were written")]
    Digest,
    #[error("its content is not of its form")]
    Content(#[source] postcard::Error),
    /// A newer release wrote it: nothing is wrong with it.
    #[error("it has version {found}, and this release knows {known}")]
    Newer { found: u32, known: u32 },
    /// An earlier release wrote it, in a form that this one doesn't know any more.
    #[error("it has version {found}, which this release doesn't read")]
    Older { found: u32 },
    #[error("it is of {found}, and not of {expected}")]
    Foreign { found: String, expected: String },
    #[error("its secrets were sealed with another key")]
    Sealed,
    #[error("it has more than {0} bytes")]
    Large(u64),
    #[error("it can't be read")]
    Unreadable(#[source] std::io::Error),
}

/// Wraps a body.
pub(super) fn wrap(kind: Kind, version: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut file = Vec::with_capacity(HEAD + body.len());
    file.extend_from_slice(&kind.magic());
    file.extend_from_slice(&version.to_le_bytes());
    file.extend_from_slice(&length.to_le_bytes());
    let digest = digest(&file, body);
    file.extend_from_slice(digest.bytes());
    file.extend_from_slice(body);
    file
}

/// The body of a file, if its version is the one that is known.
pub(super) fn unwrap(kind: Kind, known: u32, file: &[u8]) -> Result<&[u8], Damage> {
    let (head, body) = file.split_at_checked(HEAD).ok_or(Damage::Short(file.len()))?;
    if head[..MAGIC] != kind.magic() {
        return Err(Damage::Magic);
    }
    let said = number(&head[VERSION_ENDS..LENGTH_ENDS]);
    if usize::try_from(said) != Ok(body.len()) {
        let has = body.len();
        return Err(Damage::Length { said, has });
    }
    if head[LENGTH_ENDS..] != *digest(&head[..LENGTH_ENDS], body).bytes() {
        return Err(Damage::Digest);
    }
    match number(&head[MAGIC..VERSION_ENDS]) {
        found if found == known => Ok(body),
        found if found > known => Err(Damage::Newer { found, known }),
        found => Err(Damage::Older { found }),
    }
}

fn digest(head: &[u8], body: &[u8]) -> Digest {
    Digest::of_parts([head, body])
}

fn number(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}
