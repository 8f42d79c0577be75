//! The port test suite: what every home must do, whatever it is made of.
//!
//! [`suite`] is written against the traits of `engine/ports.rs` and knows no home. A home joins by a [`harness::Harness`]
//! and one line, `port_suite!`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by them"
)]

mod harness;
#[macro_use]
mod suite;

mod embedded;
mod processes;

#[path = "../sim/chance.rs"]
mod chance;
#[path = "../sim/home.rs"]
mod home;
#[path = "../sim/world.rs"]
mod world;

mod sim;
