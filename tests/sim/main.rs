//! The real engine under thousands of seeds of faults, in virtual time.
//!
//! `SEEDS=n FIRST=m` choose the seeds, `TRACE=1` prints every step of the first one. A failing seed is printed and replays
//! exactly: `make sim FIRST=<seed> SEEDS=1 TRACE=1`.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "test code: a panic is a failed seed, and the world's own tasks live as long as its runtime"
)]

mod chance;
mod home;
mod run;
mod service;
mod world;

use std::{
    collections::BTreeMap,
    panic::catch_unwind,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn a_handlers_second_panic_in_a_row_ends_its_job_as_poison_and_no_other() {
    let report = run::panicking();
    let [problem] = report.problems.as_slice() else { panic!("{:?}", report.problems) };
    assert!(problem.contains("job-0: ended as dead-lettered (poison)"), "{problem}");
    assert_eq!(report.completed + 1, report.jobs, "the workers live, and the other jobs go on");
}

#[test]
fn every_job_of_every_seed_ends_exactly_once() {
    let (count, first) = (number("SEEDS", 5_000), number("FIRST", 0));
    let is_traced = number("TRACE", 0) > 0;
    let stop_at = number("STOP_AT", 5) as usize;
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let failures = Mutex::new(Vec::new());
    let totals = Mutex::new((0_u64, 0_u64, 0_u64, 0_u64, BTreeMap::<&'static str, u64>::new()));
    let threads = std::thread::available_parallelism().map_or(2, usize::from).min(8);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || failures.lock().unwrap().len() >= stop_at {
                        return;
                    }
                    match catch_unwind(|| run::seed(seed, is_traced && seed == first)) {
                        Ok(report) => {
                            let mut totals = totals.lock().unwrap();
                            totals.0 += u64::from(report.jobs);
                            totals.1 += u64::from(report.completed);
                            totals.2 += u64::from(report.needs_person);
                            totals.3 += u64::from(report.struck);
                            for (name, times) in report.counts {
                                *totals.4.entry(name).or_default() += u64::from(times);
                            }
                            if is_traced && seed == first {
                                report.trace.iter().for_each(|line| println!("{line}"));
                                println!(
                                    "seed {seed}: hash {:016x}, {} virtual s",
                                    report.hash, report.virtual_seconds
                                );
                            }
                            if !report.problems.is_empty() {
                                failures.lock().unwrap().push((report.seed, report.problems));
                            }
                        }
                        Err(_) => failures.lock().unwrap().push((seed, vec!["panicked".to_owned()])),
                    }
                }
            });
        }
    });
    let (jobs, completed, needs_person, struck, counts) = totals.into_inner().unwrap();
    println!(
        "{count} seeds from {first}: {jobs} jobs, {completed} completed events, {needs_person} for a person, {struck} faults in {:.1?}",
        began.elapsed()
    );
    println!("faults: {counts:?}");
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    for (seed, problems) in &failures {
        println!("seed {seed} failed; replay: make sim FIRST={seed} SEEDS=1 TRACE=1");
        problems.iter().for_each(|problem| println!("  {problem}"));
    }
    assert!(failures.is_empty(), "{} seeds failed, the first: {}", failures.len(), failures[0].0);
}

#[test]
fn the_same_seed_gives_the_same_story() {
    for seed in [1, 7, 42] {
        assert_eq!(run::seed(seed, false).hash, run::seed(seed, true).hash, "seed {seed}");
    }
}
