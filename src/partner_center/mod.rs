//! Partner Center: the APIs that carry submissions, and the one place that says what their answers mean.
//!
//! Tokens come from [`crate::identity`], permission to call from the engine; nothing here repeats a request.

pub mod classify;
mod error_body;
pub mod hardware;

#[cfg(test)]
pub(crate) mod contract;
