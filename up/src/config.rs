//! The configurations of both, made of what the machine is and of what a file adds.
//!
//! The file is a host daemon's, of which everything may be absent. Its table `control_plane` is a control plane's.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use moorline_client::LocalDeployment;
use moorline_control::config as control;
use moorline_host::config as host;
use toml::{Table, Value};

use crate::machine::Machine;

/// The table of the control plane's configuration.
const CONTROL_PLANE: &str = "control_plane";
/// What `moorline up` decides by itself or is told by options, and a file for it doesn't say.
const DECIDED: [&str; 3] = ["control", "sockets", "state_dir"];
const DECIDED_OF_CONTROL_PLANE: [&str; 2] = ["listen", "state"];

/// What a file adds.
#[derive(Clone, Debug, Default)]
pub struct Added {
    path: PathBuf,
    host: Table,
    control: Table,
}

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
    #[error(
        "the configuration {} has '{key}', which `moorline up` decides by itself or has an option for: remove it",
        path.display()
    )]
    Decided {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
    },
    /// A value for the host daemon is out of its bounds.
    #[error(transparent)]
    Bounds(#[from] host::ConfigError),
    /// A value for the control plane is out of its bounds.
    #[error(transparent)]
    ControlBounds(#[from] control::ConfigError),
}

/// What the file at `path` adds.
pub fn read(path: &Path) -> Result<Added, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut host: Table = text.parse().map_err(|error| wrong(path, &error))?;
    let control = host.remove(CONTROL_PLANE).unwrap_or(Value::Table(Table::new()));
    let control = control.try_into().map_err(|error| wrong(path, &error))?;
    decides(path, &host, &DECIDED)?;
    decides(path, &control, &DECIDED_OF_CONTROL_PLANE)?;
    let path = path.to_owned();
    Ok(Added { path, host, control })
}

/// Fails if the table has one of the keys.
fn decides(path: &Path, table: &Table, decided: &[&'static str]) -> Result<(), ConfigError> {
    match decided.iter().find(|key| table.contains_key(**key)) {
        None => Ok(()),
        Some(key) => Err(ConfigError::Decided {
            path: path.to_owned(),
            key,
        }),
    }
}

/// The configuration of a deployment's control plane. What `added` leaves open is as it is by default.
pub fn control(
    deployment: &LocalDeployment,
    listen: SocketAddr,
    added: &Added,
) -> Result<control::Config, ConfigError> {
    let config = added.control.clone().try_into();
    let config = control::Config {
        listen,
        state: deployment.control(),
        ..config.map_err(|error| wrong(&added.path, &error))?
    };
    Ok(config.checked()?)
}

/// The configuration of the host daemon of a deployment on this machine. What `added` leaves open is as the machine has
/// it, and everything else as the host daemon has it by default.
pub fn host(
    deployment: &LocalDeployment,
    machine: &Machine,
    added: Added,
) -> Result<host::Config, ConfigError> {
    let Added {
        path,
        host: mut table,
        ..
    } = added;
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
    let config: host::Config = table.try_into().map_err(|error| wrong(&path, &error))?;
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
    use super::{Added, control, host, read};
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

    type Both = (moorline_host::config::Config, moorline_control::config::Config);

    fn configured(text: &str) -> Result<Both, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("up.toml");
        std::fs::write(&path, text).unwrap();
        let deployment = LocalDeployment::at("/s");
        let listen = "127.0.0.1:1".parse().unwrap();
        let both = read(&path).and_then(|added| {
            let control = control(&deployment, listen, &added)?;
            Ok((host(&deployment, &machine(), added)?, control))
        });
        both.map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_has_to_be_said() {
        let config = host(&LocalDeployment::at("/s"), &machine(), Added::default()).unwrap();
        assert_eq!((config.host.as_str(), config.zone.as_str()), ("laptop", "local"));
        assert_eq!(config.state_dir, Path::new("/s/host"));
        assert_eq!(config.sockets.admin, Path::new("/s/admin.sock"));
        assert_eq!((config.capacity.vcpus, config.capacity.memory_mib), (8, 12_288));
    }

    #[test]
    fn what_is_said_holds_and_the_rest_is_as_it_was() {
        let text = "host = 'h'\n[images.tiny]\nkernel = '/k'\n[link]\nstreams = 7\n[control_plane]\nnames = ['up.example']";
        let (config, control) = configured(text).unwrap();
        assert_eq!((control.listen.port(), control.names.len()), (1, 1));
        assert_eq!(control.state, Path::new("/s/control"));
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
            (
                "[control_plane]\nlisten = '[::]:1'",
                "'listen', which `moorline up` decides",
            ),
            ("[control_plane]\nmetric = ''", "unknown field `metric`"),
            (
                "[control_plane]\nmetrics = '192.0.2.1:1'",
                "must be an address of loopback",
            ),
            ("control_plane = 7", "up.toml is wrong"),
        ] {
            let error = configured(text).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
