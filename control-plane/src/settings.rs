//! What a deployment's configuration says that its rules depend on.
//!
//! The settings in force are kept in the store under their digest, by the operation `AdoptSettings`, so that records
//! that were made under earlier settings can be judged again.

use std::collections::BTreeMap;

use moorline_shared::api::ProblemDetails;
use moorline_shared::id::TypeName;
use moorline_shared::{Digest, InstanceId, Ttl, entry};
use serde::{Deserialize, Serialize};

use crate::model::operation::Effect;
use crate::model::record::{Record, key};
use crate::model::{Content, Env, Operation, Problem, ServiceModel, Stop, View};
use crate::services::AnyOp;
use crate::store::Key;

/// The settings of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The region that instances are told they are in.
    pub region: String,
    /// How large instances can be.
    pub types: BTreeMap<TypeName, InstanceType>,
    /// For how many seconds the data of a terminated instance are kept.
    pub keep_terminated: Ttl,
    /// For how many seconds after its end a terminated instance is shown, and the history of its data kept; no shorter
    /// than the data themselves.
    pub keep_terminated_history: Ttl,
    /// How many changes of an entry its history shows, 1 to 1,000; older ones are removed.
    pub keep_changes: u32,
    /// For how many seconds the records of refused reads and of failed log-ins are kept.
    pub keep_refused_reads: Ttl,
    /// Within how many seconds an instance must have used the token that its host was given for it; otherwise its
    /// session is over.
    pub identify_within: Ttl,
    /// For how many seconds a host's certificate is good, 5 to 2,592,000 (30 days). The host asks for the next one at a
    /// third of it.
    pub host_certificates: Ttl,
    /// The bounds of an instance's data.
    pub limits: Limits,
    /// Whether access lists count.
    pub access: AccessControl,
    /// How much a refusal says.
    pub refusals: Refusals,
}

/// How large an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceType {
    /// How many vCPUs it has.
    pub vcpus: u32,
    /// How much memory it has, in MiB.
    pub memory_mib: u64,
}

/// The bounds of an instance's data. They can be set lower than the defaults, never higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The most entries of an instance.
    pub entries: u64,
    /// The largest value, in bytes.
    pub value_bytes: u64,
    /// The most bytes of all values of an instance together.
    pub instance_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: entry::MAX_ENTRIES as u64,
            value_bytes: entry::MAX_VALUE_BYTES as u64,
            instance_bytes: entry::MAX_INSTANCE_BYTES as u64,
        }
    }
}

/// Whether access lists count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessControl {
    /// They do.
    #[default]
    Enforced,
    /// Everybody who is known may do everything but change what the provider determines.
    Off,
}

/// How much a refusal says to a caller who may know that the entry exists. Others get the answer for an unknown entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusals {
    /// Which right on which entry is missing.
    #[default]
    Full,
    /// That it is not allowed.
    Generic,
    /// The answer for an unknown entry.
    Silent,
}

impl Default for Settings {
    fn default() -> Self {
        let types = [
            ("micro", 1, 128),
            ("small", 1, 512),
            ("medium", 2, 2_048),
            ("large", 4, 8_192),
        ];
        let named = |(name, vcpus, memory_mib): (&str, u32, u64)| {
            (
                name.parse().expect("the names above are names"),
                InstanceType { vcpus, memory_mib },
            )
        };
        Self {
            region: "local".into(),
            types: types.into_iter().map(named).collect(),
            keep_terminated: Ttl::try_from(3_600).expect("an hour is a validity period"),
            keep_terminated_history: Ttl::try_from(86_400).expect("a day is a validity period"),
            keep_changes: 100,
            keep_refused_reads: Ttl::try_from(7 * 86_400).expect("a week is a validity period"),
            identify_within: Ttl::try_from(600).expect("ten minutes are a validity period"),
            host_certificates: Ttl::try_from(7 * 86_400).expect("a week is a validity period"),
            limits: Limits::default(),
            access: AccessControl::default(),
            refusals: Refusals::default(),
        }
    }
}

impl Settings {
    /// Whether every value is within its bounds; if not, which key is not and why.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let (limits, most) = (self.limits, Limits::default());
        bound("settings.limits.entries", limits.entries, most.entries)?;
        bound(
            "settings.limits.value_bytes",
            limits.value_bytes,
            most.value_bytes,
        )?;
        bound(
            "settings.limits.instance_bytes",
            limits.instance_bytes,
            most.instance_bytes,
        )?;
        bound("settings.keep_changes", u64::from(self.keep_changes), MAX_CHANGES)?;
        let life = self.host_certificates.seconds();
        if !CERTIFICATE_SECONDS.contains(&life) {
            let (least, most) = (CERTIFICATE_SECONDS.start(), CERTIFICATE_SECONDS.end());
            let reason = format!("is {life} seconds; it must be {least} to {most}");
            return Err(("settings.host_certificates", reason));
        }
        let (data, history) = (self.keep_terminated, self.keep_terminated_history);
        if history < data {
            let (data, history) = (data.seconds(), history.seconds());
            let reason = format!(
                "is {history} seconds; it must be no less than settings.keep_terminated, {data} seconds"
            );
            return Err(("settings.keep_terminated_history", reason));
        }
        Ok(())
    }

    /// What the settings are known by in operation records.
    pub fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).expect("settings can be expressed in JSON"))
    }
}

/// For how short and how long a host's certificate can be good, in seconds.
const CERTIFICATE_SECONDS: std::ops::RangeInclusive<u32> = 5..=30 * 86_400;
/// The most changes that a deployment can keep of an entry.
const MAX_CHANGES: u64 = 1_000;

fn bound(key: &'static str, found: u64, most: u64) -> Result<(), (&'static str, String)> {
    if (1..=most).contains(&found) {
        Ok(())
    } else {
        Err((key, format!("is {found}; it must be 1 to {most}")))
    }
}

/// The settings as the store keeps them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsRecord {
    /// The settings.
    pub settings: Settings,
}

impl Record for SettingsRecord {
    const KIND: &'static str = "settings";
    const FENCED: bool = false;
    const SCOPE_SEGMENTS: usize = 0;
    type Id = Digest;
    type Collection = ();

    fn key(id: &Digest) -> Key {
        key(format!("settings/{id}").as_bytes())
    }

    fn own_key(&self) -> Key {
        Self::key(&self.settings.digest())
    }

    fn prefix((): &()) -> String {
        "settings/".to_owned()
    }
}

/// The operations on settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "api", content = "parameters")]
pub enum Op {
    /// Makes these the settings in force. The control plane does it when it starts.
    AdoptSettings(Settings),
}

impl Operation for Op {
    fn api(&self) -> &'static str {
        "AdoptSettings"
    }

    fn effect(&self) -> Effect {
        Effect::Change
    }

    fn instances(&self) -> Vec<InstanceId> {
        Vec::new()
    }

    fn contents(&mut self) -> Vec<&mut Content> {
        Vec::new()
    }
}

impl From<Op> for AnyOp {
    fn from(op: Op) -> Self {
        Self::Settings(op)
    }
}

/// Nothing is refused here.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {}

impl Problem for Refusal {
    fn problem(&self) -> ProblemDetails {
        match *self {}
    }
}

/// The rules for settings.
#[derive(Clone, Copy, Debug)]
pub struct Model;

impl ServiceModel for Model {
    type Op = Op;
    type Reply = ();
    type Refusal = Refusal;

    fn step(&self, v: &mut View<'_>, op: &Op, _: &Env) -> Result<(), Stop<Refusal>> {
        let Op::AdoptSettings(settings) = op;
        if v.get::<SettingsRecord>(&settings.digest())?.is_none() {
            v.put(&SettingsRecord {
                settings: settings.clone(),
            });
        }
        Ok(())
    }
}
