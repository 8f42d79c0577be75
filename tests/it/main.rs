//! The program as people and scripts meet it: real processes against the sandbox.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by them"
)]

mod bad_input;
mod codes;
mod completions;
mod decided;
mod desk;
mod disk;
mod doctor;
mod drain;
mod endings;
mod help;
mod machine;
mod metrics;
mod pipeline;
#[path = "../secrets/run_folder.rs"]
mod run_folder;
mod transfer;
mod world;
