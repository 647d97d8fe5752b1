//! What a path of the surface names.

use moorline_shared::InstanceId;

use super::problem::Problem;

/// Whose data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The instance's own.
    Own,
    /// An instance named by its id; it may be this one.
    Named(InstanceId),
}

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Status,
    /// Entries by their bytes: one by its path, or all below a path that is empty or ends in a slash.
    Data(Owner, &'a str),
    /// One entry with what is known about it.
    Entry(Owner, &'a str),
    Watch(Owner),
    /// Which credentials there are.
    Credentials,
    /// The credentials of a role.
    Role(&'a str),
    /// A token by which others know this instance.
    IdentityToken,
    /// Which changes are under way or in doubt.
    Writes,
    /// What became of a change, by its key, which is percent-encoded.
    Write(&'a str),
}

impl<'a> Route<'a> {
    pub(super) fn parse(path: &'a str) -> Result<Self, Problem> {
        let rest = path.strip_prefix("/v1/").ok_or_else(Problem::unknown_path)?;
        let (owner, rest) = match rest.strip_prefix("instances/") {
            None => (Owner::Own, rest),
            Some(rest) => {
                let (id, rest) = rest.split_once('/').ok_or_else(Problem::unknown_path)?;
                (
                    Owner::Named(id.parse().map_err(|error| Problem::invalid("instance", error))?),
                    rest,
                )
            }
        };
        match rest.split_once('/').unwrap_or((rest, "")) {
            ("status", "") if owner == Owner::Own => Ok(Self::Status),
            ("data", path) => Ok(Self::Data(owner, path)),
            ("entries", path) if !path.is_empty() => Ok(Self::Entry(owner, path)),
            ("credentials", "") if owner == Owner::Own => Ok(Self::Credentials),
            ("identity-token", "") if owner == Owner::Own => Ok(Self::IdentityToken),
            ("writes", "") if owner == Owner::Own => Ok(Self::Writes),
            ("writes", key) if owner == Owner::Own => Ok(Self::Write(key)),
            ("credentials", role) if owner == Owner::Own => Ok(Self::Role(role)),
            ("watch", "") => Ok(Self::Watch(owner)),
            _ => Err(Problem::unknown_path()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Owner, Route};

    #[test]
    fn paths_name_what_the_documentation_says() {
        let id = "i-00000000000000000000000000000001";
        let named = Owner::Named(id.parse().unwrap());
        for (path, route) in [
            ("/v1/status".to_owned(), Route::Status),
            ("/v1/data".to_owned(), Route::Data(Owner::Own, "")),
            ("/v1/data/".to_owned(), Route::Data(Owner::Own, "")),
            ("/v1/data/a/b".to_owned(), Route::Data(Owner::Own, "a/b")),
            ("/v1/data/a/".to_owned(), Route::Data(Owner::Own, "a/")),
            ("/v1/entries/a".to_owned(), Route::Entry(Owner::Own, "a")),
            ("/v1/credentials".to_owned(), Route::Credentials),
            ("/v1/credentials/backup".to_owned(), Route::Role("backup")),
            ("/v1/identity-token".to_owned(), Route::IdentityToken),
            ("/v1/writes".to_owned(), Route::Writes),
            ("/v1/writes/k%2f1".to_owned(), Route::Write("k%2f1")),
            ("/v1/watch".to_owned(), Route::Watch(Owner::Own)),
            (format!("/v1/instances/{id}/data/a"), Route::Data(named, "a")),
            (format!("/v1/instances/{id}/watch"), Route::Watch(named)),
        ] {
            assert_eq!(Route::parse(&path).unwrap(), route, "{path}");
        }
        for path in [
            "/",
            "/v1",
            "/v2/data/a",
            "/v1/x",
            "/v1/entries/",
            "/v1/instances/x/data/a",
            "/v1/status/x",
            "/v1/instances/i-00000000000000000000000000000001/credentials",
        ] {
            assert!(Route::parse(path).is_err(), "{path} was taken");
        }
    }
}
