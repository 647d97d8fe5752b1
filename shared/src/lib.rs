//! Domain types and the wire protocol spoken between guest, host and control plane; pure, no I/O.
