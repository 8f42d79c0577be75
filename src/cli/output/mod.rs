//! What a person or a script sees: style, errors, quantities, times, tables, JSON, live rows.
//!
//! On a terminal: colour, marks and movement as far as it can show them. On a pipe: JSON, and one line per change.
//! Whatever comes from outside is made harmless before it is shown: no control character of a name reaches a terminal.

mod form;
mod human;
mod live;
mod problem;
mod style;
mod table;
mod time;

pub use self::{
    form::{Closed, Form, OutputFormat, Printer},
    human::{duration, rate, size},
    live::{Row, Rows},
    problem::{Problem, in_words},
    style::{ColorChoice, Mark, Paint, Seen, Style},
    table::{Column, Table},
    time::Times,
};
pub use crate::config::nearest;

#[cfg(test)]
mod tests;
