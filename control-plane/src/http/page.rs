//! Listings a page at a time: how long a page is, and where it goes on.

use std::fmt;
use std::str::FromStr;

use moorline_shared::Revision;

use super::problem::Failure;

/// The most items of a page.
const MOST: u32 = 1_000;

/// How many items a page has at most: what the request says, or `default`.
///
/// # Errors
/// A problem of the field `limit` if that is not 1 to 1,000.
pub fn limit(asked: Option<u32>, default: u32) -> Result<u32, Failure> {
    let limit = asked.unwrap_or(default);
    if (1..=MOST).contains(&limit) {
        return Ok(limit);
    }
    let detail = format!("it is {limit}; it must be 1 to {MOST}");
    Err(Failure::invalid("limit", detail))
}

/// Where a listing goes on, as the `next` of a page says it: every page shows the state that the first one did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor<T> {
    /// The revision of the first page.
    pub revision: Revision,
    /// The last item of the page before.
    pub after: T,
}

impl<T: fmt::Display> fmt::Display for Cursor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}", self.revision, self.after)
    }
}

impl<T: FromStr> Cursor<T> {
    /// The cursor that a request gave.
    ///
    /// # Errors
    /// [`foreign`] if it is none.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let parsed = text.split_once('~').and_then(|(revision, after)| {
            let (revision, after) = (revision.parse().ok()?, after.parse().ok()?);
            Some(Self { revision, after })
        });
        parsed.ok_or_else(foreign)
    }
}

/// A cursor that no page here gave.
pub fn foreign() -> Failure {
    Failure::invalid(
        "cursor",
        "the cursor is not one that an earlier page gave; begin again without a cursor",
    )
}
