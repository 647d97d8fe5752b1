//! The deployment that `moorline up` keeps on this machine: where its parts are, so that its clients find them without
//! being told.

use std::path::{Path, PathBuf};

/// Names another folder than the usual one.
pub const STATE_VARIABLE: &str = "MOORLINE_STATE";

/// The folder of a control plane and a host daemon that are one process.
///
/// | path | what it is |
/// |---|---|
/// | `url` | Where the control plane listens, as text; written whenever it starts. |
/// | `control/` | The state of the control plane, with the administrator's token and the `ca.pem` it is known by. |
/// | `host/` | The state of the host daemon. |
/// | `register.sock`, `admin.sock` | The sockets of the host daemon. |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalDeployment(PathBuf);

impl LocalDeployment {
    /// The deployment in this folder.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// The deployment of whoever has these variables in the environment: `MOORLINE_STATE`, or `moorline` where the XDG base
    /// directory specification has state, or `/var/lib/moorline/up` for who has no home.
    pub fn of(variable: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let absolute = |name| variable(name).filter(|path| path.is_absolute());
        let folder = variable(STATE_VARIABLE)
            .or_else(|| absolute("XDG_STATE_HOME").map(|state| state.join("moorline")))
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state/moorline")));
        Self(folder.unwrap_or_else(|| "/var/lib/moorline/up".into()))
    }

    /// The deployment of whoever runs this process. A folder that is named without its beginning lies in the working folder.
    pub fn of_process() -> Self {
        let found = Self::of(|name| {
            let value = std::env::var_os(name).filter(|value| !value.is_empty());
            value.map(PathBuf::from)
        });
        std::path::absolute(found.folder()).map_or(found, Self)
    }

    /// Where all of it is.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// The file that says where the control plane listens.
    pub fn url_file(&self) -> PathBuf {
        self.0.join("url")
    }

    /// The folder of the control plane's state.
    pub fn control(&self) -> PathBuf {
        self.0.join("control")
    }

    /// The file of the administrator's token; the certificate that the control plane is known by lies beside it.
    pub fn token_file(&self) -> PathBuf {
        self.control().join("admin.token")
    }

    /// The folder of the host daemon's state.
    pub fn host(&self) -> PathBuf {
        self.0.join("host")
    }

    /// The host daemon's socket for VM managers.
    pub fn register_socket(&self) -> PathBuf {
        self.0.join("register.sock")
    }

    /// The host daemon's socket for its operator.
    pub fn admin_socket(&self) -> PathBuf {
        self.0.join("admin.sock")
    }
}

#[cfg(test)]
mod tests {
    use super::LocalDeployment;

    #[test]
    fn state_is_where_the_environment_has_it() {
        let folder = |variables: &[(&str, &str)]| {
            let found = LocalDeployment::of(|name| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| value.into())
            });
            found.folder().display().to_string()
        };
        let home = ("HOME", "/home/ada");
        assert_eq!(folder(&[]), "/var/lib/moorline/up");
        assert_eq!(folder(&[home]), "/home/ada/.local/state/moorline");
        assert_eq!(folder(&[home, ("XDG_STATE_HOME", "/s")]), "/s/moorline");
        assert_eq!(
            folder(&[home, ("XDG_STATE_HOME", "s")]),
            "/home/ada/.local/state/moorline",
            "a relative path is to be ignored"
        );
        assert_eq!(folder(&[home, ("MOORLINE_STATE", "here")]), "here");
    }
}
