//! The configuration: one TOML file, read and checked before anything binds.

#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use moorline_client::BaseUrl;
use moorline_shared::api::hosts::{MAX_HOST_MEMORY_MIB, MAX_HOST_VCPUS};
use moorline_shared::entry::{MAX_ENTRIES, MAX_INSTANCE_BYTES};
use moorline_shared::id::{HostId, ZoneName};
use moorline_shared::link::body::Limits;
use moorline_shared::link::session::DEFAULT_LIMITS;
use serde::{Deserialize, Deserializer};

use crate::credentials::{self, RoleConfig, Roles};
use crate::vm::config::{self as machines, ExternalConfig, Images, QemuConfig, VmConfig, VsockDevice};

/// Everything the daemon is told. A key that is not here is refused.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The host's name.
    pub host: HostId,
    /// The failure domain it is in.
    pub zone: ZoneName,
    /// Where what must survive a restart of the daemon is kept.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// The control plane.
    #[serde(default)]
    pub control: ControlConfig,
    /// What the host gives to instances.
    pub capacity: CapacityConfig,
    /// The local sockets.
    #[serde(default)]
    pub sockets: SocketConfig,
    /// The guests' connections.
    #[serde(default)]
    pub link: LinkConfig,
    /// What is kept of instances' data.
    #[serde(default)]
    pub cache: CacheConfig,
    /// What holds for all machines that the daemon starts.
    #[serde(default)]
    pub vm: VmConfig,
    /// How it starts them.
    #[serde(default)]
    pub qemu: QemuConfig,
    /// What they boot from.
    #[serde(default)]
    pub images: Images,
    /// The machines that others start.
    #[serde(default)]
    pub external: ExternalConfig,
    /// The roles whose credentials instances of this host can be given.
    #[serde(default)]
    pub roles: Roles,
    /// Where metrics are scraped beside `admin.sock`, an address of loopback; nowhere if absent.
    #[serde(default)]
    pub metrics: Option<SocketAddr>,
}

fn default_state_dir() -> PathBuf {
    "/var/lib/moorline/host".into()
}

/// The table `[control]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlConfig {
    /// Where it is, such as `https://control.example:8471`; where the host was enrolled if absent.
    #[serde(deserialize_with = "from_text")]
    pub url: Option<BaseUrl>,
    /// How often what the host has is compared with what the control plane has for it, in seconds, give or take a quarter;
    /// 0 for never, 86,400 at most.
    pub sync_seconds: u32,
    /// How the host hears of what changed.
    pub sync: Upkeep,
    /// How often it asks with `sync = "poll"`, and for how long a question is kept with `sync = "long-poll"`, in seconds,
    /// give or take a quarter, 1 to 60.
    pub poll_seconds: u32,
}

/// How a host hears of what changed, or a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Upkeep {
    /// It is told as soon as something does.
    #[default]
    Push,
    /// It asks, and its question is kept until there is something.
    LongPoll,
    /// It asks now and then.
    Poll,
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self {
            url: None,
            sync_seconds: 300,
            sync: Upkeep::Push,
            poll_seconds: 10,
        }
    }
}

impl ControlConfig {
    fn check(&self) -> Result<(), ConfigError> {
        bound("control.sync_seconds", self.sync_seconds.into(), 0, 86_400)?;
        bound("control.poll_seconds", self.poll_seconds.into(), 1, 60)
    }
}

/// A value that has a `FromStr` of its own.
fn from_text<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(from: D) -> Result<Option<T>, D::Error> {
    let text = std::borrow::Cow::<str>::deserialize(from)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// The table `[capacity]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapacityConfig {
    /// How many vCPUs instances may have together, 0 to 65,536.
    pub vcpus: u32,
    /// How much memory they may have together, in MiB, 0 to 67,108,864, which is 64 TiB.
    pub memory_mib: u64,
}

/// The table `[sockets]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SocketConfig {
    /// For VM managers.
    pub register: PathBuf,
    /// The group that may register VMs beside root, by name or number; root alone if absent. Who registers a VM as
    /// an instance's can read all that the instance can.
    pub register_group: Option<String>,
    /// For root.
    pub admin: PathBuf,
}

impl Default for SocketConfig {
    fn default() -> Self {
        Self {
            register: "/run/moorline/host/register.sock".into(),
            register_group: None,
            admin: "/run/moorline/host/admin.sock".into(),
        }
    }
}

/// The table `[link]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkConfig {
    /// How many threads serve guests, 1 to 64; as many as there are cores if absent.
    pub shards: Option<NonZeroUsize>,
    /// Whether guests may come over `AF_VSOCK`.
    pub vsock: VsockUse,
    /// The most watches and relays a guest has open at once, 1 to 256.
    pub streams: u16,
    /// The most requests of a guest that wait for the control plane at once, 1 to 1,024.
    pub requests: u16,
    /// How often a guest's agent may connect: so many times at once, 1 to 1,000.
    pub connect_burst: u32,
    /// And once more each so many milliseconds, 10 to 60,000.
    pub connect_interval_ms: u32,
    /// How many reads of a guest that the host's copy doesn't answer reach the control plane per second, 1 to 1,000.
    pub upstream_per_second: u32,
    /// How many requests a guest may have passed on to the control plane per second, 1 to 1,000. They don't count among
    /// the reads, so that neither keeps the other out.
    pub relays_per_second: u32,
    /// How many bytes of answers may wait for a guest when another relayed one comes, 4 MiB to 64 MiB.
    pub relayed_bytes: usize,
    /// How many guests the host takes in, 1 to 65,536. Absent: as many as could fill half of the machine's memory, each at
    /// its bounds, and as there are descriptors for. A VM beyond them doesn't start.
    pub guests: Option<NonZeroUsize>,
    /// How often a guest's mirror is compared with what the host has, in seconds, give or take a quarter; 0 for never,
    /// 86,400 at most.
    pub sync_seconds: u32,
    /// How guests hear of what changed of their mirrors. One whose agent can't ask is told.
    pub sync: Upkeep,
    /// How often they ask with `sync = "poll"`, and for how long a question is kept with `sync = "long-poll"`, in seconds,
    /// give or take a quarter, 1 to 3,600.
    pub poll_seconds: u32,
}

/// Whether the daemon listens on `AF_VSOCK`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VsockUse {
    /// If the kernel can.
    #[default]
    Auto,
    /// Yes; the daemon doesn't start without it.
    On,
    /// No.
    Off,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            shards: None,
            vsock: VsockUse::Auto,
            streams: DEFAULT_LIMITS.streams,
            requests: DEFAULT_LIMITS.requests,
            connect_burst: 10,
            connect_interval_ms: 1_000,
            upstream_per_second: 50,
            relays_per_second: 50,
            relayed_bytes: 8 * 1024 * 1024,
            guests: None,
            sync_seconds: 300,
            sync: Upkeep::Push,
            poll_seconds: 10,
        }
    }
}

impl LinkConfig {
    /// How many threads serve guests.
    pub fn shard_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        self.shards.map_or_else(cores, NonZeroUsize::get)
    }

    /// The most memory that a guest at all of its bounds takes up, in bytes: what is kept of its data, what it is sent of
    /// them at once, and what answers wait for it.
    pub fn guest_bytes(&self, cache: &CacheConfig) -> u64 {
        let followed = (usize::from(self.streams) + 1) * cache.bytes;
        (cache.bytes + cache.foreign_bytes + followed + self.relayed_bytes) as u64
    }

    /// What a guest is told that it may do.
    pub fn limits(&self) -> Limits {
        Limits {
            streams: self.streams,
            requests: self.requests,
            ..DEFAULT_LIMITS
        }
    }
}

/// The table `[cache]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// The most entries of a view, 1 to 1,024.
    pub entries: usize,
    /// The most bytes of a view, 4,096 to 2 MiB: values, paths and content types.
    pub bytes: usize,
    /// How many other instances a guest may have views of at once, 0 to 256.
    pub foreign_views: usize,
    /// The most bytes of all those views together, at most 64 MiB.
    pub foreign_bytes: usize,
    /// After how long without a read such a view is let go, in seconds, 1 to 86,400.
    pub foreign_idle_seconds: u32,
    /// For how long such a view is served without a word from the control plane, in seconds, 0 to 3,600.
    pub foreign_stale_after_seconds: u32,
    /// For how long the control plane's no is remembered, in milliseconds, 0 to 60,000.
    pub refusal_ms: u32,
    /// After how long without a word from the control plane everything is stale, in seconds, 3 to 86,400; at once when the
    /// host knows that it has lost it. A host that polls waits for the next word as long as it polls at most, and so much
    /// longer.
    pub stale_after_seconds: u32,
    /// For how long an instance is served its own data while they are stale, in seconds, 0 to 2,592,000, which is 30 days;
    /// never with 0.
    pub never_serve_after_seconds: u32,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            entries: MAX_ENTRIES,
            bytes: MAX_INSTANCE_BYTES * 2,
            foreign_views: 16,
            foreign_bytes: 4 * MAX_INSTANCE_BYTES,
            foreign_idle_seconds: 300,
            foreign_stale_after_seconds: 60,
            refusal_ms: 2_000,
            stale_after_seconds: 6,
            never_serve_after_seconds: 7 * 86_400,
        }
    }
}

impl CacheConfig {
    /// After how long without a read a foreign view is let go.
    pub fn foreign_idle(&self) -> Duration {
        Duration::from_secs(u64::from(self.foreign_idle_seconds))
    }
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
        #[source]
        source: std::io::Error,
    },
    /// It is not TOML, or has a key or a value that is not allowed. The parser's own text would show the line, and a
    /// secret of a role may stand in it.
    #[error("line {line}, column {column} of the configuration {} is wrong: {message}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where it goes wrong, from 1.
        line: usize,
        /// Where in the line, in characters from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// A number is out of its bounds.
    #[error("{key} is {value}; allowed is {least} to {most}")]
    Bound {
        /// Which key.
        key: &'static str,
        /// What it is.
        value: u64,
        /// The least allowed.
        least: u64,
        /// The most allowed.
        most: u64,
    },
    /// A path that would mean another file wherever the daemon is started.
    #[error("{key} is '{}': give an absolute path", path.display())]
    Relative {
        /// Which key.
        key: &'static str,
        /// What it is.
        path: PathBuf,
    },
    /// Two sockets at one place.
    #[error("sockets.register and sockets.admin are both {}: give each a path of its own", path.display())]
    SameSocket {
        /// The place.
        path: PathBuf,
    },
    /// The VMs' guests would come over `AF_VSOCK`, where the daemon doesn't listen.
    #[error(
        "qemu.vsock is \"vhost\" and link.vsock is \"off\": let link.vsock be \"on\", or qemu.vsock \"vhost-user\""
    )]
    NobodyListens,
    /// Other machines would read the metrics.
    #[error("metrics is {0}: give an address of loopback, as 127.0.0.1:9472")]
    Metrics(SocketAddr),
    /// VMs of others where the daemon's own are.
    #[error(
        "external.directories has '{}', and state_dir is '{}': neither may lie in the other",
        directory.display(),
        state.display()
    )]
    NotApart {
        /// The folder of others.
        directory: PathBuf,
        /// The daemon's.
        state: PathBuf,
    },
    /// Something about a role can't be.
    #[error(transparent)]
    Roles(#[from] credentials::ConfigError),
    /// Something about the machines can't be.
    #[error(transparent)]
    Machines(#[from] machines::ConfigError),
}

impl Config {
    /// Reads and checks the file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let config: Self = toml::from_str(&text).map_err(|error| mistake(path, &text, &error))?;
        config.check()?;
        if config.has_secrets() && others_read(path) {
            tracing::warn!(
                path = %path.display(),
                "every user can read the configuration, and roles have variables in it: take that right from others"
            );
        }
        Ok(config)
    }

    /// Whether there may be a secret in it.
    fn has_secrets(&self) -> bool {
        self.roles.values().any(RoleConfig::has_secrets)
    }

    /// Whether every number is within its bounds and every path absolute; [`Self::read`] has asked.
    pub fn check(&self) -> Result<(), ConfigError> {
        absolute("state_dir", &self.state_dir)?;
        self.capacity.check()?;
        self.sockets.check()?;
        self.control.check()?;
        self.link.check()?;
        self.cache.check()?;
        if let Some(address) = self.metrics.filter(|address| !address.ip().is_loopback()) {
            return Err(ConfigError::Metrics(address));
        }
        credentials::config::check(&self.roles)?;
        self.external
            .directories
            .iter()
            .try_for_each(|directory| apart(directory, &self.state_dir))?;
        if self.link.vsock == VsockUse::Off && self.qemu.vsock == VsockDevice::Vhost {
            return Err(ConfigError::NobodyListens);
        }
        Ok(self.machines().check()?)
    }

    /// What the drivers need.
    pub fn machines(&self) -> machines::Tables {
        machines::Tables {
            vm: self.vm.clone(),
            qemu: self.qemu.clone(),
            images: self.images.clone(),
            external: self.external.clone(),
        }
    }
}

/// Whether users have the right to read the file who are neither its owner nor in its group.
fn others_read(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|file| file.permissions().mode() & 0o004 != 0)
}

fn mistake(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let start = error.span().map_or(0, |span| span.start);
    let before = text.get(..start).unwrap_or_default();
    let line = before.rsplit('\n').next().unwrap_or_default();
    ConfigError::Parse {
        path: path.to_owned(),
        line: before.matches('\n').count() + 1,
        column: line.chars().count() + 1,
        message: error.message().to_owned(),
    }
}

fn bound(key: &'static str, value: u64, least: u64, most: u64) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError::Bound {
            key,
            value,
            least,
            most,
        })
    }
}

fn absolute(key: &'static str, path: &Path) -> Result<(), ConfigError> {
    if path.is_absolute() {
        Ok(())
    } else {
        let path = path.to_owned();
        Err(ConfigError::Relative { key, path })
    }
}

/// Folders that hold the daemon's own VMs are nobody else's.
fn apart(directory: &Path, state: &Path) -> Result<(), ConfigError> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let (folder, own) = (real(directory), real(state));
    if folder.starts_with(&own) || own.starts_with(&folder) {
        return Err(ConfigError::NotApart {
            directory: directory.to_owned(),
            state: state.to_owned(),
        });
    }
    Ok(())
}

impl CapacityConfig {
    fn check(self) -> Result<(), ConfigError> {
        bound("capacity.vcpus", self.vcpus.into(), 0, MAX_HOST_VCPUS.into())?;
        bound("capacity.memory_mib", self.memory_mib, 0, MAX_HOST_MEMORY_MIB)
    }
}

impl SocketConfig {
    fn check(&self) -> Result<(), ConfigError> {
        absolute("sockets.register", &self.register)?;
        absolute("sockets.admin", &self.admin)?;
        if self.register == self.admin {
            let path = self.admin.clone();
            return Err(ConfigError::SameSocket { path });
        }
        Ok(())
    }
}

impl LinkConfig {
    fn check(&self) -> Result<(), ConfigError> {
        bound("link.shards", self.shard_count() as u64, 1, 64)?;
        bound("link.streams", self.streams.into(), 1, 256)?;
        bound("link.requests", self.requests.into(), 1, 1_024)?;
        bound("link.connect_burst", self.connect_burst.into(), 1, 1_000)?;
        let interval = self.connect_interval_ms.into();
        bound("link.connect_interval_ms", interval, 10, 60_000)?;
        let upstream = self.upstream_per_second.into();
        bound("link.upstream_per_second", upstream, 1, 1_000)?;
        bound("link.relays_per_second", self.relays_per_second.into(), 1, 1_000)?;
        let relayed = self.relayed_bytes as u64;
        bound("link.relayed_bytes", relayed, 4 << 20, 64 << 20)?;
        let guests = self.guests.map_or(1, NonZeroUsize::get) as u64;
        bound("link.guests", guests, 1, 65_536)?;
        bound("link.sync_seconds", self.sync_seconds.into(), 0, 86_400)?;
        bound("link.poll_seconds", self.poll_seconds.into(), 1, 3_600)
    }
}

impl CacheConfig {
    fn check(&self) -> Result<(), ConfigError> {
        let instance = MAX_INSTANCE_BYTES as u64;
        bound("cache.entries", self.entries as u64, 1, MAX_ENTRIES as u64)?;
        bound("cache.bytes", self.bytes as u64, 4_096, 2 * instance)?;
        bound("cache.foreign_views", self.foreign_views as u64, 0, 256)?;
        bound("cache.foreign_bytes", self.foreign_bytes as u64, 0, 64 * instance)?;
        let idle = self.foreign_idle_seconds.into();
        bound("cache.foreign_idle_seconds", idle, 1, 86_400)?;
        let stale = self.foreign_stale_after_seconds.into();
        bound("cache.foreign_stale_after_seconds", stale, 0, 3_600)?;
        bound("cache.refusal_ms", self.refusal_ms.into(), 0, 60_000)?;
        let stale = self.stale_after_seconds.into();
        bound("cache.stale_after_seconds", stale, 3, 86_400)?;
        let never = self.never_serve_after_seconds.into();
        bound("cache.never_serve_after_seconds", never, 0, 30 * 86_400)
    }
}
