//! A door for tests: whoever comes in is taken for a program that the test names.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tokio::net::{UnixListener, UnixStream};

use super::surface::{Arrival, Door, Opened, Surface};
use crate::access::Peer;
use crate::test_host::Rig;

struct Posing {
    listener: UnixListener,
    peer: Peer,
}

impl Door for Posing {
    type Stream = UnixStream;

    async fn accept(&mut self) -> io::Result<Arrival<UnixStream>> {
        let (stream, _) = self.listener.accept().await?;
        Ok(Arrival::Program(stream, self.peer.clone()))
    }

    fn turn_away(&self, _: UnixStream) {}

    fn close(self) {}
}

/// A socket of the surface on which everyone is `peer`.
pub(super) fn door_for<S: Surface>(rig: &mut Rig, surface: &Rc<S>, name: &str, peer: Peer) -> PathBuf {
    let socket = rig.folder().join(name);
    let door = Posing {
        listener: UnixListener::bind(&socket).unwrap(),
        peer,
    };
    let opened = Opened {
        door,
        surface: Rc::clone(surface),
    };
    let (settings, stop) = (rig.backing.settings.clone(), rig.stop.clone());
    rig.tasks.spawn_local(super::serve(opened, settings, stop));
    Path::to_path_buf(&socket)
}
