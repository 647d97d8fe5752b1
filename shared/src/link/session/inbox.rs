//! What comes in pieces: values, relayed bodies, batches.

use bytes::{Bytes, BytesMut};

use super::Fault;
use crate::link::frame::StreamId;

/// Bytes of announced length on their way in.
///
/// The announced length was checked against a bound before this was made; memory is taken as pieces come, not before.
#[derive(Debug)]
pub(super) struct Assembly {
    stream: StreamId,
    length: usize,
    bytes: BytesMut,
    ungranted: u32,
}

impl Assembly {
    /// Waits for `length` bytes on `stream`.
    pub(super) fn new(stream: StreamId, length: usize) -> Self {
        Self {
            stream,
            length,
            bytes: BytesMut::new(),
            ungranted: 0,
        }
    }

    /// Waits for `length` bytes on a stream that has brought something before, of which so much is not granted anew yet.
    pub(super) fn following(stream: StreamId, length: usize, ungranted: u32) -> Self {
        Self {
            ungranted,
            ..Self::new(stream, length)
        }
    }

    /// How much came in since the last grant.
    pub(super) fn ungranted(&self) -> u32 {
        self.ungranted
    }

    /// Takes a piece. More than was announced is a fault.
    pub(super) fn add(&mut self, piece: &[u8]) -> Result<(), Fault> {
        if self.bytes.len() + piece.len() > self.length {
            return Err(Fault::TooMuch {
                stream: self.stream,
                bound: self.length as u64,
            });
        }
        self.bytes.extend_from_slice(piece);
        self.ungranted += u32::try_from(piece.len()).unwrap_or(u32::MAX);
        Ok(())
    }

    /// The credit to give back: what came in since the last grant, once it is half of what was granted at first.
    pub(super) fn due_credit(&mut self, initial: u32) -> Option<u32> {
        if self.ungranted < initial / 2 {
            None
        } else {
            Some(std::mem::take(&mut self.ungranted))
        }
    }

    /// Whether everything announced has come.
    pub(super) fn is_whole(&self) -> bool {
        self.bytes.len() == self.length
    }

    /// The bytes.
    pub(super) fn into_bytes(self) -> Bytes {
        self.bytes.freeze()
    }
}
