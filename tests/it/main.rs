//! The program as people and scripts meet it: real processes against the sandbox.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is a failed test, and a test binary has no readers of its documentation"
)]

mod bad_input;
mod endings;
mod help;
mod machine;
mod world;
