//! An error with everything that led to it, as one line.

use std::error::Error;

/// Shows an error and its causes, each after a colon.
pub(crate) struct Causes<'a>(pub(crate) &'a dyn Error);

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
