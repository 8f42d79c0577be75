//! The command line: one file per noun, and what they share.

pub mod exit;
pub mod output;
