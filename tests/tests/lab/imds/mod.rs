//! The metadata service of the agent: who may ask it, in network namespaces of this machine, and what real clients find in
//! a real guest.

mod guest;
mod namespaces;
