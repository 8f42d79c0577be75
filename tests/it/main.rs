//! The program as people and scripts meet it: real processes against the sandbox.
#![allow(missing_docs, reason = "a test binary has no readers of its documentation")]

mod bad_input;
mod endings;
mod help;
mod machine;
mod world;
