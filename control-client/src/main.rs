//! The moorline command.
#![forbid(unsafe_code)]

fn main() {}
