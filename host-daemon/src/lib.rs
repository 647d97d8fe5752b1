//! Keeps the data of each instance on this host and serves each instance what it may have, and nothing more.
