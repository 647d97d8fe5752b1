//! The operations of the API, each one method of the client.

mod data;
pub(crate) mod enrolment;
mod feed;
mod hosts;
mod identity;
mod instances;
mod operations;
