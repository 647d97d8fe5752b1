//! The sockets of guests, for real.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use super::hybrid::hold_ours;
use super::{Accepted, ChannelError, Cids, ExpectedPeer, HybridListener, PreparedListener};
use crate::vm::process::Identity;
use moorline_shared::InstanceId;

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    set_mode(directory.path(), 0o700);
    directory
}

fn bind(device: &Path, peer: ExpectedPeer) -> Result<HybridListener, ChannelError> {
    PreparedListener::bind(device, peer)?.publish()
}

#[test]
fn a_socket_that_comes_to_nothing_leaves_the_one_that_is_there() {
    let directory = directory();
    let (device, socket) = (directory.path().join("vm"), directory.path().join("vm_8470"));
    let live = bind(&device, ExpectedPeer::Owner).unwrap();
    drop(PreparedListener::bind(&device, ExpectedPeer::Owner).unwrap());
    let _guest = UnixStream::connect(&socket).unwrap();
    assert!(matches!(live.accept().unwrap(), Some(Accepted::Guest(_))));
    // What can't be handed over is as good an error as any; only root can give files away.
    if !rustix::process::geteuid().is_root() {
        PreparedListener::bind(&device, ExpectedPeer::User(1)).unwrap_err();
        UnixStream::connect(&socket).unwrap();
    }
    drop(live);
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        0,
        "nothing is left over"
    );
}

#[test]
fn a_half_made_socket_of_an_earlier_daemon_is_no_hindrance() {
    let directory = directory();
    let device = directory.path().join("vm");
    drop(UnixListener::bind(directory.path().join("vm_8470.new")).unwrap());
    let _listener = bind(&device, ExpectedPeer::Owner).unwrap();
    assert!(!directory.path().join("vm_8470.new").exists());
}

#[test]
fn only_a_socket_of_the_daemons_own_is_given_away() {
    let directory = directory();
    let path = |name: &str| directory.path().join(name);
    drop(UnixListener::bind(path("ours")).unwrap());
    std::fs::write(path("file"), "").unwrap();
    std::os::unix::fs::symlink("ours", path("link")).unwrap();
    let folder = std::fs::File::open(directory.path()).unwrap().into();
    let (_, inode) = hold_ours(&folder, &"ours".into()).unwrap();
    assert_eq!(inode, path("ours").metadata().unwrap().ino());
    for other in ["file", "link", "missing"] {
        hold_ours(&folder, &other.into()).unwrap_err();
    }
    // Where else it is known is not known here.
    std::fs::hard_link(path("ours"), path("twice")).unwrap();
    hold_ours(&folder, &"ours".into()).unwrap_err();
}

#[test]
fn an_error_names_the_device_as_whoever_asked_knows_it() {
    let directory = directory();
    let refused = bind(&directory.path().join("missing/vm"), ExpectedPeer::Owner).unwrap_err();
    let known = refused.known_as(Path::new("/run/vmm/vm")).to_string();
    assert_eq!(
        known,
        "can't open the directory for the hybrid vsock device '/run/vmm/vm'"
    );
}

#[test]
fn a_left_over_socket_is_replaced_and_ours_is_removed() {
    let directory = directory();
    let (device, socket) = (directory.path().join("vm"), directory.path().join("vm_8470"));
    drop(UnixListener::bind(&socket).unwrap());
    let listener = bind(&device, ExpectedPeer::Owner).unwrap();
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(listener.accept().unwrap().is_none());
    let _guest = UnixStream::connect(&socket).unwrap();
    assert!(matches!(listener.accept().unwrap(), Some(Accepted::Guest(_))));
    drop(listener);
    assert!(!socket.exists());
}

#[test]
fn a_later_socket_by_the_same_name_stays() {
    let directory = directory();
    let device = directory.path().join("vm");
    let first = bind(&device, ExpectedPeer::Owner).unwrap();
    let second = bind(&device, ExpectedPeer::Owner).unwrap();
    drop(first);
    let _guest = UnixStream::connect(directory.path().join("vm_8470")).unwrap();
    assert!(matches!(second.accept().unwrap(), Some(Accepted::Guest(_))));
}

#[tokio::test]
async fn only_the_expected_process_is_the_guest() {
    let directory = directory();
    let device = directory.path().join("vm");
    let user = rustix::process::geteuid().as_raw();
    let own = Identity::own();
    let (another, reused) = (
        Identity {
            pid: own.pid + 1,
            ..own
        },
        // The process that has the id now began at another time than the one that was registered.
        Identity {
            started: own.started + 1,
            ..own
        },
    );
    for (process, expected) in [(own, true), (another, false), (reused, false)] {
        let listener = bind(&device, ExpectedPeer::Process { process, user }).unwrap();
        let _guest = UnixStream::connect(directory.path().join("vm_8470")).unwrap();
        let accepted = listener.accept().unwrap().unwrap();
        assert_eq!(matches!(accepted, Accepted::Guest(_)), expected);
    }
}

#[test]
fn what_others_can_write_to_is_not_trusted() {
    let directory = directory();
    let device = directory.path().join("vm");
    set_mode(directory.path(), 0o777);
    let refused = bind(&device, ExpectedPeer::Owner).unwrap_err();
    assert!(matches!(refused, ChannelError::Untrusted { .. }), "{refused}");
}

#[test]
fn row_20_a_file_in_the_way_stays_and_a_link_is_not_followed() {
    let directory = directory();
    let device = directory.path().join("vm");
    let victim = directory.path().join("victim");
    std::fs::write(&victim, "kept").unwrap();
    std::os::unix::fs::symlink(&victim, directory.path().join("vm_8470")).unwrap();
    assert!(bind(&device, ExpectedPeer::Owner).is_err());
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "kept");
}

#[test]
fn row_20_paths_that_name_no_device_are_refused() {
    let long = format!("/tmp/{}", "x".repeat(65));
    for path in ["vm", "/", "/tmp/..", &long] {
        let refused = bind(Path::new(path), ExpectedPeer::Owner).unwrap_err();
        assert!(matches!(refused, ChannelError::Path { .. }), "{path}: {refused}");
    }
}

#[test]
fn a_cid_is_one_instances_and_never_the_hosts() {
    let cids = Cids::default();
    let a = InstanceId::from_bytes([1; 16]);
    for cid in [0, 1, 2, u32::MAX] {
        assert!(matches!(cids.assign(cid, a), Err(ChannelError::Cid(_))));
    }
    assert_eq!(cids.assign(3, a).unwrap(), None);
    assert_eq!(cids.assign(4, a).unwrap(), Some(3));
    assert_eq!((cids.holder(3), cids.holder(4)), (None, Some(a)));
    cids.release(a);
    assert_eq!(cids.holder(4), None);
}

#[test]
fn a_cid_that_another_instance_holds_stays_with_it() {
    let cids = Cids::default();
    let [a, b] = [1, 2].map(|n| InstanceId::from_bytes([n; 16]));
    cids.assign(3, a).unwrap();
    cids.assign(4, b).unwrap();
    let refused = cids.assign(3, b).unwrap_err();
    assert!(matches!(refused, ChannelError::CidTaken { cid: 3, holder } if holder == a));
    assert!(refused.to_string().contains(&a.to_string()), "{refused}");
    assert_eq!((cids.holder(3), cids.holder(4)), (Some(a), Some(b)));
    cids.release(a);
    assert_eq!(cids.assign(3, b).unwrap(), Some(4));
}

#[test]
fn a_life_that_does_not_begin_leaves_the_cid_as_it_was() {
    let cids = Cids::default();
    let [a, b] = [1, 2].map(|n| InstanceId::from_bytes([n; 16]));
    for (first, then) in [(Some(3), 4), (Some(3), 3), (None, 4)] {
        if let Some(first) = first {
            cids.assign(first, a).unwrap();
        }
        let before = cids.assign(then, a).unwrap();
        cids.give_back(a, before);
        assert_eq!((cids.holder(3), cids.holder(4)), (first.map(|_| a), None));
        cids.release(a);
    }
    cids.assign(3, a).unwrap();
    let before = cids.assign(4, a).unwrap();
    cids.assign(3, b).unwrap();
    cids.give_back(a, before);
    assert_eq!((cids.holder(3), cids.holder(4)), (Some(b), None));
}
