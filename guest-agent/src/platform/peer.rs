//! The process at the other end of a unix socket.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::GetOsString;
use nix::{getsockopt_impl, sockopt_impl};
use tokio::net::UnixStream;

use crate::access::Peer;

/// Room for the groups of a process, in bytes: 1,024 of them, where processes have a dozen.
const GROUPS_BYTES: usize = 4 * 1024;

sockopt_impl!(
    /// The supplementary groups of the process that connected (`SO_PEERGROUPS`, Linux 4.13), as numbers one behind the
    /// other.
    PeerGroups,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_PEERGROUPS,
    OsString,
    GetOsString<[u8; GROUPS_BYTES]>
);

/// Who connected, with the groups it had then.
///
/// A process with more groups than there is room for has only its first one here: it may read less, never more.
pub fn peer_of(stream: &UnixStream) -> io::Result<Peer> {
    let process = stream.peer_cred()?;
    let mut groups = vec![process.gid()];
    match getsockopt(stream, PeerGroups) {
        Ok(more) => groups.extend(numbers(more.as_bytes())),
        Err(Errno::ERANGE | Errno::ENOPROTOOPT | Errno::ENODATA) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Peer::process(process.uid(), groups))
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = u32> {
    let (numbers, _) = bytes.as_chunks::<4>();
    numbers.iter().map(|number| u32::from_ne_bytes(*number))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use crate::test_host::run;

    #[test]
    fn a_peer_is_the_process_with_all_its_groups() {
        run(async {
            let (one, _other) = tokio::net::UnixStream::pair().unwrap();
            let own = std::fs::metadata("/proc/self").unwrap();
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
            let groups = groups
                .unwrap()
                .split_whitespace()
                .map(|group| group.parse().unwrap());
            let expected = super::Peer::process(own.uid(), [own.gid()].into_iter().chain(groups).collect());
            assert_eq!(super::peer_of(&one).unwrap(), expected);
        });
    }
}
