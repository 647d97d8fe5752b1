//! A control plane without host daemons: hosts are names that the test speaks for.

use anyhow::{Context, Result};
use moorline_client::{Client, Terms, fresh_key};
use moorline_lab::deployment::{ControlPlane, Programs, state_folder};
use moorline_shared::access::{AccessList, Clause, Right, Rights, Subject};
use moorline_shared::api::data::{Changed, PutEntry, SetAccess};
use moorline_shared::api::hosts::RegisterHost;
use moorline_shared::api::instances::RegisterInstance;
use moorline_shared::{EntryPath, HostId, InstanceId};
use std::collections::{BTreeMap, BTreeSet};
use tempfile::TempDir;

/// A control plane and its state.
pub(crate) struct Alone {
    pub(crate) control: ControlPlane,
    _folder: TempDir,
}

impl Alone {
    pub(crate) async fn start() -> Result<Self> {
        let folder = state_folder()?;
        let control = ControlPlane::start(&Programs::build().await?, folder.path()).await?;
        Ok(Self {
            control,
            _folder: folder,
        })
    }

    /// The API as the administrator.
    pub(crate) fn client(&self) -> &Client {
        self.control.client()
    }

    /// Registers a host, and answers with the API as that host. It boots images named `busybox`.
    pub(crate) async fn host(&self, name: &str) -> Result<Client> {
        let host: HostId = name.parse()?;
        let offer = RegisterHost {
            zone: "zone-1".parse()?,
            vcpus: 64,
            memory_mib: 65_536,
            images: vec!["busybox".parse()?],
        };
        let client = self.control.enrol(&host).await?;
        client.register_host(&host, &offer, &fresh_key()).await?;
        Ok(client)
    }

    /// Makes an instance on a host.
    pub(crate) async fn instance(&self, host: &str, name: &str) -> Result<InstanceId> {
        let body = RegisterInstance {
            host: host.parse()?,
            id: None,
            name: Some(name.to_owned()),
            tags: Vec::new(),
            roles: BTreeSet::new(),
            data: BTreeMap::new(),
        };
        let made = self.client().register_instance(&body, &fresh_key()).await?;
        Ok(made.instances.first().context("an instance was made")?.id)
    }

    /// Gives an entry a value.
    pub(crate) async fn put(&self, instance: InstanceId, at: &str, value: &str) -> Result<Changed> {
        let body = PutEntry::value(value.into());
        let terms = Terms::fresh();
        let changed = self
            .client()
            .put_instance_data(instance, &path(at), &body, &terms)
            .await;
        changed.with_context(|| format!("put {at}"))
    }

    /// Lets these read an entry, and nobody else but the administrator, who may do anything with it.
    pub(crate) async fn let_read(&self, instance: InstanceId, at: &str, who: &[&str]) -> Result<Changed> {
        let body = SetAccess {
            access: readers(who)?,
        };
        let terms = Terms::fresh();
        Ok(self
            .client()
            .set_entry_access(instance, &path(at), &body, &terms)
            .await?)
    }
}

/// A path that a test writes down.
pub(crate) fn path(text: &str) -> EntryPath {
    text.parse().expect("the tests' paths are paths")
}

/// An access list that lets these read, as in `owner` and `instance:ID`, and the administrator do anything.
pub(crate) fn readers(who: &[&str]) -> Result<AccessList> {
    let clause = |text: &str, rights| {
        let subject: Subject = text.parse()?;
        Ok(Clause { subject, rights })
    };
    let readers = who.iter().map(|text| clause(text, Rights::only(Right::Read)));
    let administrator = clause("user:admin", Rights::ALL);
    let clauses: Result<Vec<_>> = readers.chain([administrator]).collect();
    Ok(AccessList::try_from(clauses?)?)
}
