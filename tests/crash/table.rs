//! The matrix as a table: rows are steps, columns are edges.

use std::fmt::Write as _;

use super::{
    cell::Report,
    matrix::{Cell, Matrix},
};

/// ✔ held, ✘ failed, · not in this run, blank: the step does not pass there.
pub(crate) fn show(matrix: &Matrix, reports: &[(Cell, Report)]) -> String {
    let width = matrix.rows.iter().map(|row| row.name().len()).max().unwrap_or(0);
    let mut text = format!("\n{:width$}", "");
    for edge in &matrix.edges {
        write!(text, "  {edge}").unwrap();
    }
    for row in &matrix.rows {
        write!(text, "\n{:width$}", row.name()).unwrap();
        for edge in &matrix.edges {
            let is_here = |cell: &&Cell| cell.row == *row && cell.edge == *edge;
            let sign = match matrix.cells.iter().find(is_here) {
                None => ' ',
                Some(cell) => match reports.iter().find(|(done, _)| done == cell) {
                    None => '·',
                    Some((_, report)) if report.problems.is_empty() => '✔',
                    Some(_) => '✘',
                },
            };
            write!(text, "  {sign:^0$}", edge.len()).unwrap();
        }
    }
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n"
}
