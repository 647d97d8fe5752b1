//! The process at the other end of a unix socket.

use std::io;
use std::os::fd::AsFd as _;

use nix::errno::Errno;
use tokio::net::UnixStream;

use super::sockopt::peer_groups;
use crate::access::Peer;

/// Who connected, with the groups it had then.
///
/// A process with more groups than there is room for has only its first one here: it may read less, never more.
pub fn peer_of(stream: &UnixStream) -> io::Result<Peer> {
    let process = stream.peer_cred()?;
    let mut groups = vec![process.gid()];
    match peer_groups(stream.as_fd()) {
        Ok(more) => groups.extend(more),
        Err(Errno::ERANGE | Errno::ENOPROTOOPT | Errno::ENODATA) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Peer::process(process.uid(), groups))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use rustix::thread::{Gid, set_thread_groups};

    use crate::access::Peer;
    use crate::test_host::run;

    /// The supplementary groups that the kernel says this thread has.
    fn own_groups() -> Vec<u32> {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
        let groups = groups.unwrap().split_whitespace();
        groups.map(|group| group.parse().unwrap()).collect()
    }

    fn show_that_a_peer_has_its_groups() {
        // Only root may choose; everyone else is in groups of their own.
        let _ = set_thread_groups(&[27, 200, 1000, 70_000].map(Gid::from_raw));
        let (one, _other) = tokio::net::UnixStream::pair().unwrap();
        let (own, groups) = (std::fs::metadata("/proc/thread-self").unwrap(), own_groups());
        assert!(!groups.is_empty(), "a process in no group shows nothing");
        let expected = Peer::process(own.uid(), [own.gid()].into_iter().chain(groups).collect());
        assert_eq!(super::peer_of(&one).unwrap(), expected);
    }

    #[test]
    fn a_peer_is_the_process_with_all_its_groups() {
        // Groups are a thread's own here, and are not to be left to another test.
        std::thread::spawn(|| run(async { show_that_a_peer_has_its_groups() }))
            .join()
            .unwrap();
    }
}
