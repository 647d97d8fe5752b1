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
        let used = host.used_memory_mib.saturating_add(need.memory_mib);
        let free = host.offer.memory_mib.saturating_sub(used);
        // Per mille, so that shares compare as whole numbers; wide enough for whatever a record holds.
        u128::from(free) * 1_000 / u128::from(host.offer.memory_mib.max(1))
    };
    let fitting = hosts.iter_mut().filter(|host| fits(host, need));
    fitting.max_by(|a, b| free_after(a).cmp(&free_after(b)).then_with(|| b.id.cmp(&a.id)))
}

#[cfg(test)]
mod tests {
    use super::{Need, place};
    use crate::instances::records::HostRecord;
    use moorline_shared::Timestamp;
    use moorline_shared::api::hosts::RegisterHost;

    fn host(id: &str, memory_mib: u64, used_memory_mib: u64) -> HostRecord {
        HostRecord {
            id: id.parse().unwrap(),
            offer: RegisterHost {
                zone: "z".parse().unwrap(),
                vcpus: 8,
                memory_mib,
                images: vec!["busybox".parse().unwrap()],
            },
            used_vcpus: 0,
            used_memory_mib,
            instances: 0,
            created_at: Timestamp::from_millis(0).unwrap(),
        }
    }

    fn chosen(mut hosts: Vec<HostRecord>) -> Option<String> {
        let image = "busybox".parse().unwrap();
        let need = Need {
            image: &image,
            vcpus: 1,
            memory_mib: 256,
            host: None,
            zone: None,
        };
        place(&mut hosts, &need).map(|host| host.id.to_string())
    }

    #[test]
    fn the_largest_share_that_stays_free_decides() {
        assert_eq!(
            chosen(vec![host("a", 1_024, 0), host("b", 4_096, 0)]).unwrap(),
            "b"
        );
        assert_eq!(
            chosen(vec![host("b", 1_024, 0), host("a", 1_024, 0)]).unwrap(),
            "a"
        );
        assert_eq!(chosen(vec![host("a", 1_024, 1_000)]), None);
    }

    #[test]
    fn a_record_of_any_size_can_be_reckoned_with() {
        let all = vec![host("a", u64::MAX, u64::MAX - 300), host("b", u64::MAX, 0)];
        assert_eq!(chosen(all).unwrap(), "b");
    }
}
