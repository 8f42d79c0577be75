//! The pure core: values in, values out. Time, chance and the results of calls come in as arguments.
//!
//! Nothing here reads a clock, draws a random number, opens a socket or a file; `tests/architecture.rs` keeps it so.

pub mod ids;
pub mod json;
pub mod time;

pub mod adopt;
pub mod claim;
pub mod dead_letter;
pub mod event;
pub mod event_data;
pub mod failure;
pub mod job;
pub mod new_product;
pub mod plan;
pub mod quota;
pub mod retry;
pub mod service;
pub mod settlement;
pub mod step;
pub mod ticket;
pub mod trace;
pub mod view;
mod work;
