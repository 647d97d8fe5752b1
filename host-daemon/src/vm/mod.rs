//! The machines: drivers that start, adopt, watch and stop VMs, and those that others run.

pub mod config;
pub mod plan;
