//! The fleet as its operators meet it: the real program on a real RabbitMQ and a real Redis.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by them"
)]
#![expect(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

mod arguments;
mod blocked;
mod cluster;
mod hands;
mod knocking;
mod lanes;
mod limits;
mod place;
mod publishing;
mod refused;
mod resting;
#[path = "../secrets/run_folder.rs"]
mod run_folder;
#[path = "../servers/mod.rs"]
#[allow(dead_code, unreachable_pub, clippy::print_stderr, missing_docs, reason = "shared with other targets")]
mod servers;
mod slow;
mod tls;
mod topology;
mod versions;
#[path = "../it/world.rs"]
#[allow(dead_code, clippy::indexing_slicing, reason = "shared with the tests of the program")]
mod world;
