//! What becomes of changes: the rules against a model, and an agent before a host that loses answers.

mod fates;
mod found_out;
mod room;
