//! What a look comes to.

use serde::Serialize;

/// How something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and something should be done.
    Warn,
    /// It doesn't work.
    Fail,
    /// This user can't look at it, or there is nothing to look at.
    Unknown,
}

impl Verdict {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
            Self::Unknown => "?",
        }
    }
}

/// One look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    /// What was looked at: the same word in every version.
    pub(super) name: &'static str,
    pub(super) verdict: Verdict,
    /// What was found.
    pub(super) found: String,
    /// What to do, unless it is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
}

impl Check {
    pub(super) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Ok,
            found: found.into(),
            advice: None,
        }
    }

    pub(super) fn warn(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::bad(name, Verdict::Warn, found, advice)
    }

    pub(super) fn fail(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::bad(name, Verdict::Fail, found, advice)
    }

    /// It could not be looked at.
    pub(super) fn unknown(name: &'static str, why: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::bad(name, Verdict::Unknown, why, advice)
    }

    fn bad(
        name: &'static str,
        verdict: Verdict,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            name,
            verdict,
            found: found.into(),
            advice: Some(advice.into()),
        }
    }
}

/// All that was found. Fields are added, never changed, within a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Report {
    version: u32,
    /// The host, as its daemon calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    /// The worst of the verdicts.
    verdict: Verdict,
    pub(super) checks: Vec<Check>,
}

impl Report {
    pub(super) fn new(host: Option<String>, checks: Vec<Check>) -> Self {
        let has = |verdict| checks.iter().any(|check| check.verdict == verdict);
        let verdict = match () {
            () if has(Verdict::Fail) => Verdict::Fail,
            () if has(Verdict::Warn) => Verdict::Warn,
            () => Verdict::Ok,
        };
        Self {
            version: 1,
            host,
            verdict,
            checks,
        }
    }

    pub(super) fn count(&self, verdict: Verdict) -> usize {
        self.checks
            .iter()
            .filter(|check| check.verdict == verdict)
            .count()
    }
}
