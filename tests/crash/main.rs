//! The crash matrix: a worker process dies at every named point of every step, another one takes over, and the service
//! has seen one product, one submission, one commit and the right bytes.
//!
//! The cells are generated from `longshore crash-points`. `CRASH_CELLS=all` runs every cell, `CRASH_CELLS=quarter` (the
//! default) one in four, drawn by `CRASH_SEED`, else by the date; any other value runs the cells whose names hold it.
//! `CRASH_JOBS` says how many cells run at a time. Each cell keeps its files below the run's folder: `crash/<cell>/`.

// A release build has no crash points, and only Unix tells by which signal a process died.
#![cfg(all(unix, debug_assertions))]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by them")]

mod cell;
mod check;
mod child;
mod folder;
mod matrix;
#[path = "../secrets/run_folder.rs"]
mod run_folder;
mod table;

use std::{
    io::Write as _,
    panic::AssertUnwindSafe,
    process::{Command, Stdio},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, stream};

use self::{cell::Report, matrix::Matrix};

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A line that is seen also where the runner keeps the output of tests that pass: seed, table and count are wanted.
fn say(line: &str) {
    std::io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// The points, as the hidden command lists them.
fn points() -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_longshore")).arg("crash-points").stdin(Stdio::null()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_killed_worker_leaves_one_product_one_commit_and_the_right_bytes_at_every_step_and_edge() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let begun = longshore::clock::monotonic();
    let matrix = Matrix::of(&points());
    let choice = variable("CRASH_CELLS").unwrap_or_else(|| "quarter".to_owned());
    let day = longshore::clock::now().as_second() / 86_400;
    let seed = variable("CRASH_SEED").map_or(day.unsigned_abs(), |seed| seed.parse().expect("CRASH_SEED is a number"));
    let chosen = matrix.choose(&choice, seed);
    assert!(!chosen.is_empty(), "CRASH_CELLS={choice} names no cell");
    let jobs = variable("CRASH_JOBS").map_or(4, |jobs| jobs.parse().expect("CRASH_JOBS is a number"));
    let root = run_folder::folder("crash").unwrap();
    say(&format!(
        "crash matrix: {} of {} cells (CRASH_CELLS={choice} CRASH_SEED={seed}), {jobs} at a time, files in {}",
        chosen.len(),
        matrix.cells.len(),
        root.display()
    ));
    let mut running = stream::iter(chosen)
        .map(|cell| {
            let folder = root.join(cell.name());
            async move {
                let report = AssertUnwindSafe(cell::run(&cell, &folder)).catch_unwind().await;
                (report.unwrap_or_else(|_| Report::panicked(folder)), cell)
            }
        })
        .buffer_unordered(jobs);
    let mut reports = Vec::new();
    while let Some((report, cell)) = running.next().await {
        if !report.problems.is_empty() {
            say(&format!("✘ {} after {:.1?}; its logs: {}", cell.name(), report.took, report.folder.display()));
            report.problems.iter().for_each(|problem| say(&format!("    {problem}")));
        }
        reports.push((cell, report));
    }
    say(&table::show(&matrix, &reports));
    say(&summary(&reports, begun.elapsed()));
    let failed: Vec<String> = reports.iter().filter(|(_, r)| !r.problems.is_empty()).map(|(c, _)| c.name()).collect();
    assert!(
        failed.is_empty(),
        "{} cells failed: {}; alone: CRASH_CELLS=NAME cargo test --test crash -- --nocapture; logs below {}",
        failed.len(),
        failed.join(", "),
        root.display()
    );
}

fn summary(reports: &[(matrix::Cell, Report)], took: Duration) -> String {
    let mut takeovers: Vec<Duration> = reports.iter().filter_map(|(_, report)| report.takeover).collect();
    takeovers.sort();
    let deaths = reports.iter().filter(|(_, report)| report.is_dead).count();
    let longest = reports.iter().max_by_key(|(_, report)| report.took);
    let longest = longest.map(|(cell, report)| format!("{} {:.1?}", cell.name(), report.took)).unwrap_or_default();
    let takeover = match (takeovers.get(takeovers.len() / 2), takeovers.last()) {
        (Some(median), Some(most)) => format!("median {median:.0?}, longest {most:.0?}"),
        (_, _) => "none".to_owned(),
    };
    format!(
        "{} cells in {took:.1?}, {} failed; {deaths} workers died; take-over from the death, start of the next worker \
         included: {takeover}; longest cell: {longest}",
        reports.len(),
        reports.iter().filter(|(_, report)| !report.problems.is_empty()).count(),
    )
}
