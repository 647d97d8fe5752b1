//! Mirrors this instance's data, serves it to local programs, and runs what the host is told to have run.
