//! A range that is longer than a page, read page by page.

use super::{Key, Range, ReadError, Store, Versioned};

/// The pages of a range as it was at one revision, one after the other; made by [`Store::pages`].
///
/// Only the page that was given last is in memory.
#[derive(Debug)]
#[must_use = "nothing is read before a page is asked for"]
pub struct Pages<'s> {
    store: &'s Store,
    at: u64,
    /// What was not given yet; `None` once the last page was.
    rest: Option<Range>,
}

impl<'s> Pages<'s> {
    pub(super) const fn new(store: &'s Store, at: u64, range: Range) -> Self {
        let rest = Some(range);
        Self { store, at, rest }
    }

    /// The entries of the next page in ascending order, at most [`Range::limit`] and perhaps none; `None` after the last
    /// page.
    ///
    /// Cancel-safe: a page that was not given is given next time.
    ///
    /// # Errors
    /// [`ReadError`] as of [`Store::range`]: between two pages compaction may overtake the revision.
    pub async fn next(&mut self) -> Result<Option<Vec<(Key, Versioned)>>, ReadError> {
        let Some(range) = &self.rest else {
            return Ok(None);
        };
        let page = self.store.range(self.at, range).await?;
        let rest = |range: Range| Some(range.resume_at(page.next?));
        self.rest = self.rest.take().and_then(rest);
        Ok(Some(page.entries))
    }
}
