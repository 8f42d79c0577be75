//! Programs of other languages, with their own libraries, on a real broker: they hand jobs in and read events as the
//! documentation says, and a worker process carries the jobs.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by them"
)]

mod again;
mod conformance;
mod dead_letters;
mod desk;
mod doctor;
mod fleet;
mod jobs;
mod metrics;
mod node;
mod page;
mod python;
mod stop;
mod submit;
mod trace;
mod watch;
mod wrong;

#[path = "../secrets/run_folder.rs"]
mod run_folder;
#[path = "../servers/mod.rs"]
#[allow(dead_code, unreachable_pub, clippy::print_stderr, missing_docs, reason = "shared with other targets")]
mod servers;
#[path = "../it/world.rs"]
#[allow(dead_code, reason = "shared with the tests of the program")]
mod world;
