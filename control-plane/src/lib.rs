//! Holds the master copy of all instances' data and the services around it.
//!
//! [`store`] keeps it: revisioned, watched, durable. [`model`] is how every operation runs: the rules of a service
//! are a pure function, and one executor carries them out and leaves the operation's record in the same transaction.
//! [`services`] is the list of the services: [`instances`], [`instance_data`], [`accounts`],
//! [`settings`], and [`identity`]: users, groups, sessions and tokens, the authority of hosts and their enrolment, and what
//! instances prove and are given.
//! [`http`] serves them, and the feed to the hosts. [`server`] is all of it as one process, [`config`] what it is told.
//! [`backup`] is the store in one file, to be restored after a disaster. [`metrics`] are what is counted of all this.
#![forbid(unsafe_code)]

pub mod accounts;
pub mod backup;
pub mod config;
pub mod http;
pub mod identity;
pub mod instance_data;
pub mod instances;
pub mod metrics;
pub mod model;
pub mod server;
pub mod services;
pub mod settings;
pub mod store;
