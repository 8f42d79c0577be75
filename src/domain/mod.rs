//! The pure core: values in, values out. Time, chance and the results of calls come in as arguments.
//!
//! Nothing here reads a clock, draws a random number, opens a socket or a file; `tests/architecture.rs` keeps it so.

pub mod ids;
pub mod json;
pub mod time;

pub mod failure;
pub mod new_product;
pub mod service;
