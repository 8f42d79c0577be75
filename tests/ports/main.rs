//! The port test suite: what every home must do, whatever it is made of.
//!
//! [`suite`] is written against the traits of `engine/ports.rs` and knows no home. A home joins by a [`harness::Harness`]
//! and one line, `port_suite!`.

mod harness;
#[macro_use]
mod suite;

mod embedded;
mod processes;
