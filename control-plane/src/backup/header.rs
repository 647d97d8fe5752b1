//! What a backup says of itself before its content.

use std::io::{self, Read};

use moorline_shared::{Digest, Revision, Timestamp};
use serde::{Deserialize, Serialize};

use crate::store::sqlite::Detached;

/// What a backup begins with, before the number of its format.
const MAGIC: &str = "moorline-backup ";
/// The format that this release writes and reads.
const FORMAT: &str = "1";
/// The longest line that a header may have, in bytes.
const MAX_LINE: usize = 4_096;

/// What a backup is of, and what its content must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The release that took it.
    pub build: String,
    /// The deployment's name.
    pub deployment: String,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// The revision that it has the store at.
    pub revision: Revision,
    /// The store's schema.
    pub schema: u64,
    /// The name of the master key that the secrets in it are sealed with; absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master_key: Option<String>,
    /// How long the content is, in bytes.
    pub bytes: u64,
    /// The content's digest.
    pub digest: Digest,
}

/// Why the beginning of a file is not a backup's.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// It can't be read.
    #[error("the backup can't be read")]
    Read(#[source] io::Error),
    /// It is something else, or its beginning is missing.
    #[error("this is no backup of a control plane: give a file that `moorline-control backup` wrote")]
    Foreign,
    /// A later release wrote it, in another format.
    #[error(
        "the backup's format is '{0}', and this release knows {FORMAT}: restore it with the release that took it"
    )]
    Format(String),
    /// A later release wrote it, with another schema.
    #[error(
        "the backup's store has schema {found}, and this release knows up to {known}: restore it with {build}, which took \
         it, or a newer one"
    )]
    Schema {
        /// The schema found.
        found: u64,
        /// The newest that this release knows.
        known: u64,
        /// The release that took it.
        build: String,
    },
    /// What it says of itself can't be understood.
    #[error("the backup's header is damaged")]
    Damaged(#[source] serde_json::Error),
}

impl Header {
    /// The bytes that go before the content.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let json = serde_json::to_string(self).expect("a header can be expressed in JSON");
        format!("{MAGIC}{FORMAT}\n{json}\n").into_bytes()
    }

    /// Reads as far as the content begins. Fails where this release can't read what follows.
    pub fn read(from: &mut impl Read) -> Result<Self, HeaderError> {
        let first = line(from)?;
        let format = first.strip_prefix(MAGIC).ok_or(HeaderError::Foreign)?;
        if format != FORMAT {
            return Err(HeaderError::Format(format.to_owned()));
        }
        let header: Self = serde_json::from_str(&line(from)?).map_err(HeaderError::Damaged)?;
        let known = Detached::newest_schema();
        if header.schema > known {
            return Err(HeaderError::Schema {
                found: header.schema,
                known,
                build: header.build,
            });
        }
        Ok(header)
    }
}

/// A line, without its end. It is read by single bytes: what follows it is the next one's to read.
fn line(from: &mut impl Read) -> Result<String, HeaderError> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while line.len() <= MAX_LINE {
        match from.read_exact(&mut byte) {
            Ok(()) if byte == *b"\n" => return String::from_utf8(line).map_err(|_| HeaderError::Foreign),
            Ok(()) => line.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(HeaderError::Read(error)),
        }
    }
    Err(HeaderError::Foreign)
}
