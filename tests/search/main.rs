//! The exhaustive search: every schedule of one job under mixes of faults, `domain/claim.rs` itself deciding.
//!
//! `cargo test --test search -- --nocapture` prints the table. Each mix must hold: no double effect, no loss, one end, every
//! end but `completed` in the dead letters, an end reachable from every state. Each rule of docs/protocol.md that is left
//! out must be found; otherwise the search is blind to it.

mod explore;
mod job;
mod rules;
mod turns;
mod world;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use explore::{Verdict, explore};
use job::{Job, Mix};
use rules::{Rule, Rules};
use world::Faults;

/// More states than this mean that a mix has grown out of its time.
const LIMIT: usize = 8_000_000;

const NO_FAULTS: Faults = Faults {
    kills: 0,
    cuts: 0,
    lost_answers: 0,
    throttles: 0,
    losses: 0,
    duplicates: 0,
    twice: 0,
    retries: 0,
    failovers: 0,
    splits: 0,
    ends: 0,
    deadlines: 0,
    cancels: 0,
    panics: 0,
};

const ONE_CREATE: Mix = Mix {
    name: "",
    creates: 1,
    workers: &[0, 1],
    faults: NO_FAULTS,
    is_quota_scarce: false,
    early_looks: 1,
    is_every_park_marked: false,
    poison_after: 5,
    at_least: 0,
};

const TWO_CREATES: Mix = Mix { creates: 2, ..ONE_CREATE };

const MIXES: [Mix; 11] = [
    Mix {
        name: "kill, cut, lost answer, 429",
        faults: Faults { kills: 1, cuts: 1, lost_answers: 1, throttles: 1, ..NO_FAULTS },
        at_least: 250_000,
        ..ONE_CREATE
    },
    Mix {
        name: "kill, cut, lost answer, one worker for both handlers",
        workers: &[0, 0],
        faults: Faults { kills: 1, cuts: 1, lost_answers: 1, ..NO_FAULTS },
        at_least: 10_000,
        ..ONE_CREATE
    },
    Mix {
        name: "two creates: kill, loss of memory, cut",
        faults: Faults { kills: 1, cuts: 1, losses: 1, ..NO_FAULTS },
        at_least: 1_000,
        ..TWO_CREATES
    },
    Mix {
        name: "two creates: kill, loss, duplicate, ticket twice",
        faults: Faults { kills: 1, losses: 1, duplicates: 1, twice: 1, ..NO_FAULTS },
        early_looks: 0,
        at_least: 1_000,
        ..TWO_CREATES
    },
    Mix {
        name: "fail-over that keeps the birth mark, duplicate",
        faults: Faults { failovers: 1, duplicates: 1, ..NO_FAULTS },
        at_least: 1_000,
        ..ONE_CREATE
    },
    Mix {
        name: "two creates: the same fail-over, kill, 429, no permit",
        faults: Faults { failovers: 1, kills: 1, throttles: 1, ..NO_FAULTS },
        is_quota_scarce: true,
        at_least: 1_000,
        ..TWO_CREATES
    },
    Mix {
        name: "cancel, loss, cut",
        faults: Faults { cancels: 1, losses: 1, cuts: 1, ..NO_FAULTS },
        at_least: 1_000,
        ..ONE_CREATE
    },
    Mix {
        name: "end, retry, kill, loss",
        faults: Faults { ends: 1, retries: 1, kills: 1, losses: 1, ..NO_FAULTS },
        at_least: 1_000,
        ..ONE_CREATE
    },
    Mix {
        name: "split memory, cut, duplicate",
        faults: Faults { splits: 1, cuts: 1, duplicates: 1, ..NO_FAULTS },
        at_least: 1_000,
        ..ONE_CREATE
    },
    Mix {
        name: "deadline, 2 kills, cut",
        faults: Faults { deadlines: 1, kills: 2, cuts: 1, ..NO_FAULTS },
        at_least: 1_000,
        ..ONE_CREATE
    },
    Mix {
        name: "2 panics, kill, lost answer; poison at the second",
        faults: Faults { panics: 2, kills: 1, lost_answers: 1, ..NO_FAULTS },
        poison_after: 2,
        at_least: 1_000,
        ..ONE_CREATE
    },
];

/// One line of the table.
struct Row {
    verdict: Verdict,
    took: Duration,
}

fn run(mix: Mix, without: Option<Rule>, is_liveness_asked: bool) -> Row {
    let start = Instant::now();
    let verdict = explore(&Job { mix, rules: Rules { without } }, is_liveness_asked, LIMIT);
    Row { verdict, took: start.elapsed() }
}

#[test]
fn survey() {
    let work: Vec<(usize, Rule)> = Rule::ALL.iter().flat_map(|rule| (0..MIXES.len()).map(move |mix| (mix, *rule))).collect();
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((mix, rule)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let row = run(MIXES[*mix], Some(*rule), true);
                    rows.lock().unwrap().push((*rule as usize, *mix, row));
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap();
    rows.sort_by_key(|(rule, mix, _)| (*rule, *mix));
    for (rule, mix, row) in &rows {
        println!("{:60} {mix:2} {:40} {:8} {:6} ms {:?}", Rule::ALL[*rule].text(), MIXES[*mix].name, row.verdict.states, row.took.as_millis(), row.verdict.violation.as_ref().map(|(what, trace)| (what, trace.len() - 1)));
    }
}

#[test]
fn every_schedule() {
    let only: Option<usize> = std::env::var("MIX").ok().and_then(|m| m.parse().ok());
    for (n, mix) in MIXES.into_iter().enumerate().filter(|(n, _)| only.is_none_or(|only| only == *n)) {
        let Row { verdict, took } = run(mix, None, true);
        println!("{n:2} {:50} {:9} states {:9} transitions {took:?}", mix.name, verdict.states, verdict.transitions);
        if let Some((what, trace)) = verdict.violation {
            println!("   VIOLATION {what}");
            for line in trace {
                println!("   {line}");
            }
        }
    }
}

#[test]
fn turns_survey() {
    use turns::*;
    for is_dated in [true, false] {
        for without in std::iter::once(None).chain(TurnRule::ALL.into_iter().map(Some)) {
            let start = Instant::now();
            let verdict = explore(&Turns { name: "", is_dated, faults: if is_dated { [1, 1, 1, 1] } else { [1, 1, 0, 1] }, without, at_least: 0 }, true, LIMIT);
            println!("{is_dated} {:50} {:9} states {:9} transitions {:?} {:?}", without.map_or("all", TurnRule::text), verdict.states, verdict.transitions, start.elapsed(), verdict.violation.as_ref().map(|(w, t)| (w, t.len() - 1)));
            if let (None, Some((_, trace))) = (without, verdict.violation) {
                for line in trace { println!("   {line}"); }
            }
        }
    }
}
