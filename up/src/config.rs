//! The host daemon's configuration, made of what the machine is and of what a file adds.

use std::path::{Path, PathBuf};

use moorline_client::LocalDeployment;
use moorline_host::config as host;
use toml::{Table, Value};

use crate::machine::Machine;

/// What `moorline up` decides by itself, and a file for it doesn't say.
const DECIDED: [&str; 3] = ["control", "sockets", "state_dir"];

/// Why the configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read the configuration {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is not TOML, or has a key or a value that is not allowed. What stands there is not shown: a secret of a role may
    /// be in it.
    #[error("the configuration {} is wrong: {message}", path.display())]
    Wrong {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The file says what is not its to say.
    #[error("the configuration {} has '{key}', which `moorline up` decides by itself: remove it", path.display())]
    Decided {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
    },
    /// A value is out of its bounds.
    #[error(transparent)]
    Bounds(#[from] host::ConfigError),
}

/// What the file at `path` adds: the tables of a host daemon's configuration, of which everything may be absent.
pub fn read(path: &Path) -> Result<Table, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let table: Table = text.parse().map_err(|error| wrong(path, &error))?;
    match DECIDED.into_iter().find(|key| table.contains_key(*key)) {
        None => Ok(table),
        Some(key) => Err(ConfigError::Decided {
            path: path.to_owned(),
            key,
        }),
    }
}

/// The configuration of the host daemon of a deployment on this machine. What `added`, a file and what it says, leaves open
/// is as the machine has it, and everything else as the host daemon has it by default.
pub fn host(
    deployment: &LocalDeployment,
    machine: &Machine,
    added: Option<(&Path, Table)>,
) -> Result<host::Config, ConfigError> {
    let (path, mut table) = added.unwrap_or((Path::new(""), Table::new()));
    let text = |path: PathBuf| Value::from(path.display().to_string());
    let number = |number: u64| Value::from(i64::try_from(number).unwrap_or(i64::MAX));
    let mut leave = |key: &str, value: Value| {
        table.entry(key).or_insert(value);
    };
    leave("host", machine.name.as_str().into());
    leave("zone", "local".into());
    leave("state_dir", text(deployment.host()));
    let sockets = [
        ("register", text(deployment.register_socket())),
        ("admin", text(deployment.admin_socket())),
    ];
    leave("sockets", made_of(sockets));
    let capacity = [
        ("vcpus", number(machine.vcpus as u64)),
        ("memory_mib", number(machine.memory_mib)),
    ];
    leave("capacity", made_of(capacity));
    let config: host::Config = table.try_into().map_err(|error| wrong(path, &error))?;
    config.check()?;
    Ok(config)
}

fn made_of<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    let pairs = pairs.map(|(key, value)| (key.to_owned(), value));
    Value::Table(pairs.into_iter().collect())
}

fn wrong(path: &Path, error: &toml::de::Error) -> ConfigError {
    ConfigError::Wrong {
        path: path.to_owned(),
        message: error.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{host, read};
    use crate::machine::Machine;
    use moorline_client::LocalDeployment;
    use std::path::Path;

    fn machine() -> Machine {
        Machine {
            name: "laptop".parse().unwrap(),
            vcpus: 8,
            memory_mib: 12_288,
        }
    }

    fn configured(text: &str) -> Result<moorline_host::config::Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("up.toml");
        std::fs::write(&path, text).unwrap();
        let added = read(&path).map_err(|error| error.to_string())?;
        let deployment = LocalDeployment::at("/s");
        host(&deployment, &machine(), Some((&path, added))).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_has_to_be_said() {
        let config = host(&LocalDeployment::at("/s"), &machine(), None).unwrap();
        assert_eq!((config.host.as_str(), config.zone.as_str()), ("laptop", "local"));
        assert_eq!(config.state_dir, Path::new("/s/host"));
        assert_eq!(config.sockets.admin, Path::new("/s/admin.sock"));
        assert_eq!((config.capacity.vcpus, config.capacity.memory_mib), (8, 12_288));
    }

    #[test]
    fn what_is_said_holds_and_the_rest_is_as_it_was() {
        let config = configured("host = 'h'\n[images.tiny]\nkernel = '/k'\n[link]\nstreams = 7").unwrap();
        assert_eq!((config.host.as_str(), config.zone.as_str()), ("h", "local"));
        assert_eq!((config.images.len(), config.link.streams), (1, 7));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, says) in [
            ("host = ", "up.toml is wrong"),
            ("[images.tiny]\nkernle = '/k'", "unknown field `kernle`"),
            ("[link]\nstreams = 700", "link.streams is 700"),
            ("state_dir = '/x'", "'state_dir', which `moorline up` decides"),
        ] {
            let error = configured(text).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
