//! Tests with real processes and real guests: one binary, so that they share what is slow to make and take
//! turns at the machine.

mod access;
mod agent;
mod alone;
mod api;
mod attacks;
mod cutter;
mod debian;
mod demo;
mod guests;
mod hostile_link;
mod identity_token;
mod idle;
mod imds;
mod kept;
mod leftovers;
mod nested;
mod packages;
mod privileged;
mod processes;
mod python;
mod readme;
mod talker;
mod up;
mod vm;
