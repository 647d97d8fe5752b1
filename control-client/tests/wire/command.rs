//! The command itself, as a process.
