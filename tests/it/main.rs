//! The program as people and scripts meet it: real processes against the sandbox.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by them"
)]

mod bad_input;
mod desk;
mod drain;
mod endings;
mod help;
mod machine;
mod metrics;
mod world;
