//! Runs all searches on two threads, prints the table and judges it.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use longshore::clock;

use crate::{
    explore::{Verdict, explore},
    job::{Job, Mix},
    mixes::{MIXES, TURNS, WIDER, finder, turn_finder},
    rules::{Rule, Rules},
    turns::{TurnRule, Turns},
};

/// States of a run by hand: some 5 GB.
const WIDER_LIMIT: usize = 20_000_000;

/// More states than this mean that a mix has grown out of its time.
const LIMIT: usize = 2_000_000;

/// What is searched.
enum Model {
    Job(Mix),
    Turns(Turns),
}

/// One search.
struct Task {
    model: Model,
    /// What is left out, for people.
    without: Option<&'static str>,
    rule: Option<Rule>,
    /// Must it be found wanting?
    is_to_be_found: bool,
}

/// What it brought.
struct Row<'a> {
    task: &'a Task,
    verdict: Verdict,
    took: Duration,
}

impl Task {
    fn all() -> Vec<Self> {
        let mixes = MIXES.map(|mix| Self { model: Model::Job(mix), without: None, rule: None, is_to_be_found: false });
        let turns =
            TURNS.map(|turns| Self { model: Model::Turns(turns), without: None, rule: None, is_to_be_found: false });
        let rules = Rule::ALL.map(|rule| Self {
            model: Model::Job(MIXES[finder(rule)]),
            without: Some(rule.text()),
            rule: Some(rule),
            is_to_be_found: true,
        });
        let turn_rules = TurnRule::ALL.map(|rule| Self {
            model: Model::Turns(Turns { without: Some(rule), ..TURNS[turn_finder(rule)] }),
            without: Some(rule.text()),
            rule: None,
            is_to_be_found: true,
        });
        mixes.into_iter().chain(turns).chain(rules).chain(turn_rules).collect()
    }

    fn run(&self, limit: usize) -> Row<'_> {
        let start = clock::monotonic();
        let verdict = match self.model {
            Model::Job(mix) => explore(&Job { mix, rules: Rules { without: self.rule } }, limit),
            Model::Turns(turns) => explore(&turns, limit),
        };
        Row { task: self, verdict, took: start.elapsed() }
    }

    fn mix(&self) -> &'static str {
        match self.model {
            Model::Job(mix) => mix.name,
            Model::Turns(turns) => turns.name,
        }
    }

    fn handlers(&self) -> usize {
        match self.model {
            Model::Job(mix) => mix.workers.len(),
            Model::Turns(_) => 2,
        }
    }

    fn at_least(&self) -> usize {
        match self.model {
            Model::Job(mix) => mix.at_least,
            Model::Turns(turns) => turns.at_least,
        }
    }
}

impl Row<'_> {
    fn print(&self) {
        let Verdict { states, transitions, violation } = &self.verdict;
        let took = self.took.as_secs_f64();
        let mix = self.task.mix();
        match (self.task.without, violation) {
            (None, None) => {
                println!("  {mix:58} {:2} {states:9} {transitions:11} {took:6.1} s  holds", self.task.handlers());
            }
            (Some(without), None) => println!("{without:60} {mix:58} {states:9} {took:6.1} s  holds"),
            (Some(without), Some((what, trace))) => {
                println!("{without:60} {mix:58} {states:9} {took:6.1} s  {:3}  {what}", trace.len() - 1);
            }
            (None, Some((what, trace))) => {
                println!("  {mix:58} {states:9} {took:6.1} s  VIOLATED: {what}");
                for line in trace {
                    println!("    {line}");
                }
            }
        }
    }

    /// What is wrong with the search, if anything.
    fn complaint(&self) -> Option<String> {
        let name = format!("{} [{}]", self.task.without.unwrap_or("all rules"), self.task.mix());
        match (&self.verdict.violation, self.task.is_to_be_found) {
            (Some((what, _)), false) => Some(format!("{name}: {what}")),
            (None, true) => Some(format!("{name}: not found, the search is blind to this rule")),
            (None, false) if self.task.without.is_none() && self.verdict.states < self.task.at_least() => {
                Some(format!("{name}: {} states only, the mix no longer says what it says", self.verdict.states))
            }
            (None, false) | (Some(_), true) => None,
        }
    }
}

fn run_all(tasks: &[Task]) -> Vec<Row<'_>> {
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(task) = tasks.get(n) else { return };
                    let row = task.run(LIMIT);
                    rows.lock().unwrap().push((n, row));
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap();
    rows.sort_by_key(|(n, _)| *n);
    rows.into_iter().map(|(_, row)| row).collect()
}

#[test]
fn every_schedule_of_every_mix_holds_and_every_rule_left_out_is_found() {
    let start = clock::monotonic();
    let tasks = Task::all();
    let rows = run_all(&tasks);
    println!("\n  {:58} {:>2} {:>9} {:>11} {:>8}", "mix, all rules", "h", "states", "transitions", "time");
    rows.iter().filter(|row| row.task.without.is_none()).for_each(Row::print);
    println!(
        "\n{:60} {:58} {:>9} {:>8}  {:>3}  found",
        "rule left out (‡ as in the protocol)", "mix", "states", "time", "way"
    );
    rows.iter().filter(|row| row.task.without.is_some()).for_each(Row::print);
    println!(
        "\n  h: handlers at once; way: transitions to the violation; in all {:.0} s",
        start.elapsed().as_secs_f64()
    );
    let complaints: Vec<String> = rows.iter().filter_map(Row::complaint).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
#[ignore = "minutes and gigabytes: run by hand with --ignored --nocapture when claim.rs or the protocol changes"]
fn wider_mixes_hold() {
    for mix in WIDER {
        let task = Task { model: Model::Job(mix), without: None, rule: None, is_to_be_found: false };
        let row = task.run(WIDER_LIMIT);
        row.print();
        assert_eq!(row.complaint(), None);
    }
}
