//! What the lab and its helper inside a guest say to each other.
//!
//! Both ends speak JSON, one message to a line, over a virtio-serial port: the lab sends [`Request`]s and the
//! helper (`lab-guest`, the binary of this package) answers with [`Event`]s. Several commands run at once;
//! every event names the command it belongs to.
//!
//! A virtio-serial port has no connections of its own, so the lab opens every session with
//! [`Request::Hello`]. The helper then kills what the session before it left running and answers with
//! [`Event::Hello`]; whatever the lab reads before that answer belongs to an earlier session.

#![forbid(unsafe_code)]

mod base64_bytes;

use serde::{Deserialize, Serialize};

/// The name of the virtio-serial port, as QEMU's `virtserialport,name=` gives it to the guest.
pub const PORT_NAME: &str = "org.moorline.lab";

/// The user id of the guest's one unprivileged user.
pub const ORDINARY_UID: u32 = 1000;

/// Names one command within a session; the lab chooses it and never uses one twice.
pub type CommandId = u64;

/// A message from the lab to the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Request {
    /// Begins a session and ends the one before it.
    Hello {
        /// Chosen at random by the lab and repeated in the answer.
        session: u64,
    },
    /// Runs one command line by `/bin/sh -c`, in a process group of its own.
    Run {
        /// The name that the command's events carry.
        id: CommandId,
        /// What the shell is given.
        command: String,
        /// The user id, also taken as the group id, that the command runs as.
        uid: u32,
    },
    /// Kills a command's process group; its [`Event::Ended`] follows. An unknown name is ignored, since the
    /// command may have just ended by itself.
    Kill {
        /// The command to kill.
        id: CommandId,
    },
}

/// A message from the guest to the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// Answers [`Request::Hello`].
    Hello {
        /// As the request gave it.
        session: u64,
        /// The guest kernel's name for this boot.
        boot_id: String,
    },
    /// Bytes that a command wrote on its standard output.
    Stdout {
        /// The command that wrote them.
        id: CommandId,
        /// What was written, base64 in JSON.
        #[serde(with = "base64_bytes")]
        data: Vec<u8>,
    },
    /// Bytes that a command wrote on its standard error.
    Stderr {
        /// The command that wrote them.
        id: CommandId,
        /// What was written, base64 in JSON.
        #[serde(with = "base64_bytes")]
        data: Vec<u8>,
    },
    /// The command is over and all its output has been sent; always its last event.
    Ended {
        /// The command that ended.
        id: CommandId,
        /// How it ended.
        ending: Ending,
    },
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// It was never started; the text says why.
    NotStarted(String),
}
