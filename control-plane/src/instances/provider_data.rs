//! The entries under `meta/` that tell an instance what the provider knows of it.

use moorline_shared::EntryPath;
use moorline_shared::access::{AccessList, Clause, Right, Rights, Subject};
use moorline_shared::entry::Visibility;

use super::records::InstanceRecord;
use crate::instance_data::Refusal;
use crate::instance_data::rules::{Data, NewValue};
use crate::model::Stop;
use crate::settings::Settings;

/// Writes what is new or different of the instance's provider entries.
pub fn write(
    data: &mut Data<'_, '_>,
    instance: &InstanceRecord,
    settings: &Settings,
) -> Result<(), Stop<Refusal>> {
    data.foresee_changes(paths(instance, settings).iter().map(|path| (path, None)))?;
    for (path, text) in entries(instance, settings) {
        if !data.holds(&path, &text)? {
            data.as_provider().put(&path, None, &published(&text))?;
        }
    }
    Ok(())
}

/// Where the instance's provider entries are.
pub fn paths(instance: &InstanceRecord, settings: &Settings) -> Vec<EntryPath> {
    let entries = entries(instance, settings);
    entries.into_iter().map(|(path, _)| path).collect()
}

/// The instance's provider entries: where they are, and what they say.
fn entries(instance: &InstanceRecord, settings: &Settings) -> Vec<(EntryPath, String)> {
    let path = |name: &str| {
        format!("meta/{name}")
            .parse()
            .expect("the names below are segments of a path")
    };
    let known = known(instance, settings).into_iter();
    known
        .filter_map(|(name, text)| Some((path(name), text?)))
        .collect()
}

fn known(instance: &InstanceRecord, settings: &Settings) -> Vec<(&'static str, Option<String>)> {
    let text = |value: &dyn std::fmt::Display| Some(value.to_string());
    vec![
        ("instance-id", text(&instance.id)),
        ("account", text(&instance.account)),
        ("name", instance.name.clone()),
        ("region", Some(settings.region.clone())),
        ("zone", text(&instance.zone)),
        ("host", text(&instance.host)),
        ("image", instance.image.as_ref().map(ToString::to_string)),
        (
            "instance-type",
            instance.instance_type.as_ref().map(ToString::to_string),
        ),
        (
            "vcpus",
            instance.image.as_ref().map(|_| instance.vcpus.to_string()),
        ),
        (
            "memory-mib",
            instance.image.as_ref().map(|_| instance.memory_mib.to_string()),
        ),
        ("tags", serde_json::to_string(&instance.tags).ok()),
    ]
}

/// The provider's entries are named by `describe` and read by the instance and by its account's administrators.
fn published(text: &str) -> NewValue {
    let owner = Clause {
        subject: Subject::Owner,
        rights: Rights::only(Right::Read),
    };
    let access = AccessList::try_from(vec![owner]).expect("one clause is within the bound");
    NewValue {
        visibility: Some(Visibility::Public),
        access: Some(access),
        ..NewValue::text(text)
    }
}
