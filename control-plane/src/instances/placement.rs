//! Finds a host with room.

use moorline_shared::HostId;
use moorline_shared::id::{ImageName, ZoneName};

use super::records::HostRecord;

/// What an instance needs of its host.
#[derive(Clone, Copy, Debug)]
pub struct Need<'a> {
    /// What it boots from.
    pub image: &'a ImageName,
    /// How many vCPUs.
    pub vcpus: u32,
    /// How much memory, in MiB.
    pub memory_mib: u64,
    /// The host it must be on.
    pub host: Option<&'a HostId>,
    /// The zone it must be in.
    pub zone: Option<&'a ZoneName>,
}

/// Whether the host can take it.
pub fn fits(host: &HostRecord, need: &Need<'_>) -> bool {
    need.host.is_none_or(|id| *id == host.id)
        && need.zone.is_none_or(|zone| *zone == host.offer.zone)
        && host.offer.images.contains(need.image)
        && host.used_vcpus.saturating_add(need.vcpus) <= host.offer.vcpus
        && host.used_memory_mib.saturating_add(need.memory_mib) <= host.offer.memory_mib
}

/// The host that has the largest share of its memory free afterwards; the first by name among equals.
pub fn place<'h>(hosts: &'h mut [HostRecord], need: &Need<'_>) -> Option<&'h mut HostRecord> {
    let free_after = |host: &HostRecord| {
        let free = host
            .offer
            .memory_mib
            .saturating_sub(host.used_memory_mib + need.memory_mib);
        // Per mille, so that shares compare as whole numbers.
        free * 1_000 / host.offer.memory_mib.max(1)
    };
    let fitting = hosts.iter_mut().filter(|host| fits(host, need));
    fitting.max_by(|a, b| free_after(a).cmp(&free_after(b)).then_with(|| b.id.cmp(&a.id)))
}
