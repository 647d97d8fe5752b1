//! The configuration file, parsed into types before anything is opened.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::identity::authority::issue::ServerName;
use crate::settings::Settings;

/// What the control plane is told by its configuration file, in TOML.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the API listens.
    pub listen: SocketAddr,
    /// The names and addresses that clients reach it by, beside those that [`Self::server_names`] adds.
    pub names: Vec<ServerName>,
    /// The folder of the store and the administrator's token; made if it isn't there.
    pub state: PathBuf,
    /// The file of the master key, which every secret in the store is sealed with; made if it isn't there. Absent:
    /// systemd's credential `master.key` if the process was given one, otherwise `master.key` in the folder of the state.
    pub master_key: Option<PathBuf>,
    /// The deployment's name, which guests know their mirror by.
    pub deployment: String,
    /// How many transactions are kept for watches, feeds and reads of the past.
    pub keep_revisions: u64,
    /// The URL that identity tokens name as their issuer, under which those who check them reach this control plane,
    /// without a path. Absent: the first of [`Self::names`] or `localhost`, with the port.
    pub issuer: Option<String>,
    /// Where metrics are scraped, an address of loopback; nowhere if absent.
    pub metrics: Option<SocketAddr>,
    /// What the rules depend on.
    pub settings: Settings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8471)),
            names: Vec::new(),
            state: "/var/lib/moorline/control".into(),
            master_key: None,
            deployment: "moorline".into(),
            keep_revisions: 1_000_000,
            issuer: None,
            metrics: None,
            settings: Settings::default(),
        }
    }
}

/// Why a configuration is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("configuration {}: it can't be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is not well formed, or holds a key that nobody knows.
    #[error("configuration {}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, where, and what is allowed there.
        reason: String,
    },
    /// A key's value is out of bounds.
    #[error("configuration: {key} {reason}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl Config {
    /// Reads the configuration at `path`.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let malformed = |error: toml::de::Error| ConfigError::Malformed {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let config: Self = toml::from_str(&text).map_err(malformed)?;
        config.checked()
    }

    /// The file of the master key; see [`Self::master_key`](field@Self::master_key).
    pub fn master_key(&self) -> PathBuf {
        let credential = || {
            let file = Path::new(&std::env::var_os("CREDENTIALS_DIRECTORY")?).join("master.key");
            file.exists().then_some(file)
        };
        let chosen = self.master_key.clone().or_else(credential);
        chosen.unwrap_or_else(|| self.state.join("master.key"))
    }

    /// The names that the server's certificate is for: those that are configured, the address that it listens on, this
    /// machine's name, and those by which a machine reaches itself.
    pub fn server_names(&self) -> Vec<ServerName> {
        let own = ["localhost", "127.0.0.1", "::1"].map(|name| name.parse().ok());
        let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let machine = machine.and_then(|name| name.trim().parse().ok());
        let listen = Some(self.listen.ip()).filter(|address| !address.is_unspecified());
        let more = own.into_iter().chain([machine, listen.map(ServerName::Address)]);
        let mut names = self.names.clone();
        for name in more.flatten() {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// The URL that identity tokens name; see [`Self::issuer`](field@Self::issuer). `port` is where the API listens.
    pub fn issuer(&self, port: u16) -> String {
        let name = || match self.names.first() {
            Some(ServerName::Address(IpAddr::V6(address))) => format!("[{address}]"),
            Some(name) => name.to_string(),
            None => "localhost".to_owned(),
        };
        self.issuer
            .clone()
            .unwrap_or_else(|| format!("https://{}:{port}", name()))
    }

    /// The configuration, if every value is within its bounds.
    pub fn checked(self) -> Result<Self, ConfigError> {
        if !(1_000..=100_000_000).contains(&self.keep_revisions) {
            let reason = format!("is {}; it must be 1000 to 100000000", self.keep_revisions);
            return Err(ConfigError::Value {
                key: "keep_revisions",
                reason,
            });
        }
        if self.deployment.parse::<moorline_shared::AccountId>().is_err() {
            let reason = format!("is '{}'; it must be 1 to 63 of a-z 0-9 . _ -", self.deployment);
            return Err(ConfigError::Value {
                key: "deployment",
                reason,
            });
        }
        if let Some(issuer) = &self.issuer {
            let rest = issuer.strip_prefix("https://").unwrap_or_default();
            if rest.is_empty()
                || !rest
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && !b"/?#@".contains(&b))
            {
                let reason = format!(
                    "is '{issuer}'; it must be https:// and a name, with a port if need be, and no path"
                );
                return Err(ConfigError::Value {
                    key: "issuer",
                    reason,
                });
            }
        }
        if let Some(metrics) = self.metrics.filter(|address| !address.ip().is_loopback()) {
            let reason = format!("is {metrics}; it must be an address of loopback, as 127.0.0.1:9471");
            return Err(ConfigError::Value {
                key: "metrics",
                reason,
            });
        }
        self.settings
            .check()
            .map_err(|(key, reason)| ConfigError::Value { key, reason })?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::Config;

    #[test]
    fn a_misspelt_key_is_named_with_what_is_allowed() {
        let error = toml::from_str::<Config>("lisen = '127.0.0.1:1'")
            .unwrap_err()
            .to_string();
        assert!(error.contains("lisen") && error.contains("listen"), "{error}");
    }

    #[test]
    fn the_sample_shows_the_defaults() {
        let sample = include_str!("../../packaging/config/control.toml");
        assert_eq!(toml::from_str::<Config>(sample).unwrap(), Config::default());
    }

    #[test]
    fn the_server_is_known_by_what_it_is_reached_by() {
        let config: Config =
            toml::from_str("listen = '192.0.2.7:8471'\nnames = ['control.example', '192.0.2.7']").unwrap();
        let names = config.checked().unwrap().server_names();
        let texts: Vec<_> = names.iter().map(ToString::to_string).collect();
        let wanted = ["control.example", "192.0.2.7", "localhost", "127.0.0.1", "::1"];
        assert_eq!(texts[..5], wanted);
        let other: Config = toml::from_str("listen = '0.0.0.0:8471'").unwrap();
        assert!(
            !other
                .server_names()
                .iter()
                .any(|name| name.to_string() == "0.0.0.0")
        );
        let bad = toml::from_str::<Config>("names = ['a b']")
            .unwrap_err()
            .to_string();
        assert!(bad.contains("'a b' is not the name of a server"), "{bad}");
    }

    #[test]
    fn bounds_can_only_be_lowered() {
        let config: Config = toml::from_str("[settings.limits]\nentries = 2000").unwrap();
        assert!(config.checked().unwrap_err().to_string().contains("1024"));
    }

    #[test]
    fn metrics_are_for_this_machine_alone() {
        for (address, good) in [
            ("127.0.0.1:9471", true),
            ("[::1]:9471", true),
            ("0.0.0.0:9471", false),
        ] {
            let config: Config = toml::from_str(&format!("metrics = '{address}'")).unwrap();
            assert_eq!(config.checked().is_ok(), good, "{address}");
        }
    }

    #[test]
    fn history_is_bounded_and_outlives_the_data() {
        for (text, says) in [
            (
                "keep_changes = 0",
                "settings.keep_changes is 0; it must be 1 to 1000",
            ),
            (
                "keep_terminated_history = 60",
                "no less than settings.keep_terminated, 3600 seconds",
            ),
        ] {
            let config: Config = toml::from_str(&format!("[settings]\n{text}")).unwrap();
            let error = config.checked().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
