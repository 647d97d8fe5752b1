//! The tables `[roles.NAME]`: which roles there are, whose, and where their credentials come from.

use std::collections::{BTreeMap, BTreeSet};

use moorline_shared::id::{AccountId, RoleName};
use serde::{Deserialize, Deserializer};

use super::sources::{Settings, Source as _};

/// All roles that this host can give credentials of.
pub type Roles = BTreeMap<RoleName, RoleConfig>;

/// The table of a role: what every role has, and the keys of its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleConfig {
    /// The accounts whose instances may have the role; absent for those of every account.
    pub accounts: Option<BTreeSet<AccountId>>,
    /// How many of its credentials are fetched at once, 1 to 64.
    pub fetches_at_once: u16,
    /// Where they come from.
    pub source: Settings,
}

/// How many credentials of a role are fetched at once, unless the configuration says otherwise.
pub const FETCHES_AT_ONCE: u16 = 4;

/// Why a role can't be as its table says.
#[derive(Debug, thiserror::Error)]
#[error("roles.{role}.{key} {problem}")]
pub struct ConfigError {
    /// Which role.
    pub role: RoleName,
    /// Which of its keys.
    pub key: &'static str,
    /// What is wrong, and what may be.
    pub problem: String,
}

/// What is wrong with a key of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyError {
    /// Which key.
    pub key: &'static str,
    /// What is wrong, and what may be.
    pub problem: String,
}

impl KeyError {
    /// This key can't be, for this reason.
    pub fn new(key: &'static str, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self { key, problem }
    }

    /// Whether a number is within its bounds.
    pub fn bound(key: &'static str, value: u64, least: u64, most: u64) -> Result<(), Self> {
        if (least..=most).contains(&value) {
            Ok(())
        } else {
            Err(Self::new(
                key,
                format!("is {value}; allowed is {least} to {most}"),
            ))
        }
    }
}

impl RoleConfig {
    /// Whether there may be secrets among its keys.
    pub fn has_secrets(&self) -> bool {
        self.source.has_secrets()
    }

    /// Whether instances of this account may have the role.
    pub fn is_for(&self, account: &AccountId) -> bool {
        self.accounts
            .as_ref()
            .is_none_or(|accounts| accounts.contains(account))
    }

    fn check(&self) -> Result<(), KeyError> {
        KeyError::bound("fetches_at_once", self.fetches_at_once.into(), 1, 64)?;
        self.source.check()
    }
}

/// Whether every role can be as its table says.
pub fn check(roles: &Roles) -> Result<(), ConfigError> {
    roles.iter().try_for_each(|(role, config)| {
        config.check().map_err(|KeyError { key, problem }| ConfigError {
            role: role.clone(),
            key,
            problem,
        })
    })
}

impl<'de> Deserialize<'de> for RoleConfig {
    /// The keys of every role are taken out; what is left is the source's, which refuses what it doesn't know.
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let mut table = toml::Table::deserialize(d)?;
        let accounts = table.remove("accounts").map(toml::Value::try_into).transpose();
        let at_once = table
            .remove("fetches_at_once")
            .map(toml::Value::try_into)
            .transpose();
        let told = |error: toml::de::Error| D::Error::custom(error.message());
        Ok(Self {
            accounts: accounts.map_err(told)?,
            fetches_at_once: at_once.map_err(told)?.unwrap_or(FETCHES_AT_ONCE),
            source: toml::Value::Table(table).try_into().map_err(told)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{RoleConfig, Roles, check};

    fn read(text: &str) -> Result<Roles, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_role_has_its_own_keys_and_those_of_its_source() {
        let text = "[backup]\nsource = 'exec'\ncommand = ['/bin/x', 'y']\naccounts = ['main']\n[self]\nsource = 'moorline'\n";
        let roles = read(text).unwrap();
        check(&roles).unwrap();
        let config: &RoleConfig = &roles["backup"
            .parse::<moorline_shared::id::RoleName>()
            .as_ref()
            .unwrap()];
        assert!(config.is_for(&"main".parse().unwrap()) && !config.is_for(&"other".parse().unwrap()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("[a]\nsource = 'magic'", "`magic`"),
            ("[a]\ncommand = ['/x']", "`source`"),
            ("[a]\nsource = 'exec'\ncommand = ['/x']\ncomand = 1", "`comand`"),
            ("[a]\nsource = 'moorline'\ncommand = ['/x']", "`command`"),
            ("[A]\nsource = 'moorline'", "not a role"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(named), "{text}: {said}");
        }
        for (text, named) in [
            ("[a]\nsource = 'exec'\ncommand = ['x']", "roles.a.command"),
            ("[a]\nsource = 'exec'\ncommand = []", "roles.a.command"),
            (
                "[a]\nsource = 'exec'\ncommand = ['/x']\ntimeout_seconds = 0",
                "allowed is 1 to 300",
            ),
            (
                "[a]\nsource = 'moorline'\nfetches_at_once = 65",
                "allowed is 1 to 64",
            ),
        ] {
            let said = check(&read(text).unwrap()).unwrap_err().to_string();
            assert!(said.contains(named), "{text}: {said}");
        }
    }
}
