//! The parameters of a request: each is known by its name, taken once, and refused if nobody takes it.

use std::borrow::Cow;
use std::str::FromStr;
use std::time::Duration;

use moorline_shared::Revision;
use percent_encoding::percent_decode_str;

use super::problem::Problem;

/// The most parameters; no request knows more.
const MOST: usize = 16;

/// The parameters that have not been taken yet.
#[derive(Debug)]
pub(super) struct Params<'a>(Vec<(&'a str, Cow<'a, str>)>);

impl<'a> Params<'a> {
    /// The parameters of a query.
    pub(super) fn parse(query: Option<&'a str>) -> Result<Self, Problem> {
        let pairs = query.unwrap_or("").split('&').filter(|pair| !pair.is_empty());
        let params = pairs.take(MOST + 1).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8();
            let value =
                value.map_err(|_| Problem::invalid(name.to_owned(), format!("'{name}' is not UTF-8")))?;
            Ok((name, value))
        });
        let params = params.collect::<Result<Vec<_>, Problem>>()?;
        if params.len() > MOST {
            return Err(Problem::invalid(
                "query",
                format!("there are more than {MOST} parameters"),
            ));
        }
        Ok(Self(params))
    }

    /// The parameter as text.
    pub(super) fn text(&mut self, name: &str) -> Option<Cow<'a, str>> {
        let at = self.0.iter().position(|(other, _)| *other == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// The parameter as a `T`.
    pub(super) fn value<T>(&mut self, name: &'static str) -> Result<Option<T>, Problem>
    where
        T: FromStr<Err: std::fmt::Display>,
    {
        let text = self.text(name);
        let parse = |text: Cow<'_, str>| {
            text.parse()
                .map_err(|error| Problem::invalid(name, format!("'{name}': {error}")))
        };
        text.map(parse).transpose()
    }

    /// Whether a parameter is `true`; absent means it isn't.
    pub(super) fn flag(&mut self, name: &'static str) -> Result<bool, Problem> {
        let on = self.value::<bool>(name)?;
        Ok(on.unwrap_or(false))
    }

    /// A long poll, if one is asked for.
    pub(super) fn wait(&mut self) -> Result<Option<Wait>, Problem> {
        let on = self.flag("wait_for_change")?;
        let last_etag = self.text("last_etag").map(|text| Etag::read(&text));
        let seconds = self.value::<u32>("timeout_sec")?.unwrap_or(60);
        if !(1..=300).contains(&seconds) {
            return Err(Problem::invalid(
                "timeout_sec",
                format!("'timeout_sec' is 1 to 300, not {seconds}"),
            ));
        }
        let timeout = Duration::from_secs(u64::from(seconds));
        Ok(on.then_some(Wait { last_etag, timeout }))
    }

    /// Refuses what is left over.
    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => {
                let detail = format!("this request knows no parameter '{name}', or not twice");
                Err(Problem::invalid((*name).to_owned(), detail))
            }
        }
    }
}

/// A long poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    /// What the client has; `None` for whatever is there now.
    pub(super) last_etag: Option<Etag>,
    /// How long to wait for something else.
    pub(super) timeout: Duration,
}

/// A revision that a client has, as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Etag {
    Revision(Revision),
    /// None of ours: whatever is there is something else.
    Other,
}

impl Etag {
    fn read(text: &str) -> Self {
        let revision = text.trim_matches('"').parse();
        revision.map_or(Self::Other, Self::Revision)
    }

    pub(super) fn is(self, revision: Revision) -> bool {
        self == Self::Revision(revision)
    }
}

#[cfg(test)]
mod tests {
    use super::{Etag, Params, Revision};

    #[test]
    fn parameters_are_taken_once_and_leftovers_are_refused() {
        let mut params =
            Params::parse(Some("prefix=a%2Fb&x=1&wait_for_change=true&last_etag=%221.2%22")).unwrap();
        assert_eq!(params.text("prefix").unwrap(), "a/b");
        let wait = params.wait().unwrap().unwrap();
        assert_eq!(
            (wait.last_etag, wait.timeout.as_secs()),
            (Some(Etag::Revision(Revision::new(1, 2))), 60)
        );
        assert!(params.finish().is_err(), "x is nobody's");
        assert!(Params::parse(None).unwrap().finish().is_ok());
    }

    #[test]
    fn bounds_are_kept() {
        assert!(Params::parse(Some("timeout_sec=0")).unwrap().wait().is_err());
        assert!(Params::parse(Some("timeout_sec=301")).unwrap().wait().is_err());
        assert!(
            Params::parse(Some("wait_for_change=yes"))
                .unwrap()
                .wait()
                .is_err()
        );
        assert!(Params::parse(Some("a=%ff")).is_err());
        assert!(Params::parse(Some(&"a=1&".repeat(17))).is_err());
    }
}
