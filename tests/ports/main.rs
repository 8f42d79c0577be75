//! The port test suite: what every home must do, whatever it is made of.
//!
//! [`suite`] is written against the traits of `engine/ports/` and knows no home. A home joins by a [`harness::Harness`]
//! and one line, `port_suite!`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by them"
)]

mod harness;
#[path = "../secrets/run_folder.rs"]
mod run_folder;
#[macro_use]
mod suite;

mod embedded;
mod fleet;
mod processes;
#[path = "../servers/mod.rs"]
#[allow(dead_code, unreachable_pub, clippy::print_stderr, missing_docs, reason = "shared with other targets")]
mod servers;

/// The simulation's own modules: the seeds use more of them than the suite does.
#[path = "../sim/chance.rs"]
#[allow(dead_code, unreachable_pub, clippy::pedantic, reason = "shared with the simulation, which allows the same")]
mod chance;
#[path = "../sim/home.rs"]
#[allow(dead_code, unreachable_pub, clippy::pedantic, reason = "shared with the simulation, which allows the same")]
mod home;
#[path = "../sim/world.rs"]
#[allow(dead_code, unreachable_pub, clippy::pedantic, reason = "shared with the simulation, which allows the same")]
mod world;

mod sim;
