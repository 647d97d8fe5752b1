//! The control plane's API as its users have it: the real command line, plain HTTP, watches, and the feed to hosts over
//! real HTTP/2.

mod bad_input;
mod catch_up;
mod command;
mod feed;
mod revoked;
mod users;
mod watches;
