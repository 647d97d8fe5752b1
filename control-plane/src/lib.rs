//! Holds the master copy of all instances' data and the services around it.

pub mod store;
