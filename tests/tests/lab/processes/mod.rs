//! Daemons that are killed, frozen and cut off, with agents and guests beside them: what was acknowledged stays, guests
//! go on reading, and everybody catches up by themselves.

mod acknowledged;
mod cold_start;
mod control_plane;
mod cuts;
mod doctor;
mod host_daemon;
mod kills;
mod partition;
mod polls;
mod restore;
mod secrets;
mod telltale;
mod tokens;
mod upgrade;
mod watchdog;

use crate::alone::path;
use anyhow::{Context, Result};
use moorline_client::{Client, Terms};
use moorline_shared::InstanceId;
use moorline_shared::api::data::{Changed, PutEntry};

pub(crate) async fn put(client: &Client, instance: InstanceId, at: &str, value: &str) -> Result<Changed> {
    let body = PutEntry::value(value.into());
    let changed = client
        .put_instance_data(instance, &path(at), &body, &Terms::fresh())
        .await;
    changed.with_context(|| format!("put {at}"))
}
