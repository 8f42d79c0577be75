//! The memory of the fleet on real Redis servers: what holds when it is shared, forgets, stands still, is full, or is gone.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by them")]

mod alone;
mod equality;
mod faults;
mod harness;
mod known;
mod rights;
mod sentinel;
mod tls;
mod tokens;
mod unclaimed;
mod view;
mod walk;

#[path = "../sim/chance.rs"]
#[allow(dead_code, unreachable_pub, clippy::pedantic, reason = "shared with the simulation, which allows the same")]
mod chance;
#[path = "../secrets/run_folder.rs"]
#[allow(dead_code, reason = "shared with other targets")]
mod run_folder;
#[path = "../servers/mod.rs"]
#[allow(dead_code, unreachable_pub, clippy::print_stderr, missing_docs, reason = "shared with other targets")]
mod servers;
