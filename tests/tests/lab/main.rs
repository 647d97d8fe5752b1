//! Tests with real processes and real guests: one binary, so that they share what is slow to make and take
//! turns at the machine.

mod demo;
mod guests;
mod nested;
mod vm;
