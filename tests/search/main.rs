mod explore;
mod job;
mod rules;
mod world;

use job::{Job, Mix};
use rules::{Rule, Rules};
use world::Faults;

const QUIET: Faults = Faults { kills: 0, cuts: 0, lost_answers: 0, throttles: 0, losses: 0, duplicates: 0, twice: 0, retries: 0, failovers: 0, splits: 0, ends: 0, deadlines: 0, cancels: 0, panics: 0 };
const BASE: Mix = Mix { name: "", creates: 1, workers: &[0, 1], faults: QUIET, is_quota_scarce: false, early_looks: 1, poison_after: 5, at_least: 100 };

fn mixes() -> Vec<Mix> {
    vec![
        Mix { name: "kill, cut, lost answer, 429", workers: &[0, 1], faults: Faults { kills: 1, cuts: 1, lost_answers: 1, throttles: 1, ..QUIET }, ..BASE },
        Mix { name: "the same, one worker", workers: &[0, 0], faults: Faults { kills: 1, cuts: 1, lost_answers: 1, throttles: 1, ..QUIET }, ..BASE },
        Mix { name: "two creates: kill, loss, cut", creates: 2, faults: Faults { kills: 1, cuts: 1, losses: 1, ..QUIET }, ..BASE },
        Mix { name: "two creates: kill, loss, duplicate, twice", creates: 2, faults: Faults { kills: 1, duplicates: 1, twice: 1, losses: 1, ..QUIET }, ..BASE },
        Mix { name: "fail-over, duplicate", faults: Faults { failovers: 1, duplicates: 1, ..QUIET }, ..BASE },
        Mix { name: "two creates: fail-over, kill, 429, no permit", creates: 2, is_quota_scarce: true, faults: Faults { failovers: 1, kills: 1, throttles: 1, ..QUIET }, ..BASE },
        Mix { name: "cancel, loss, cut", faults: Faults { cancels: 1, losses: 1, cuts: 1, ..QUIET }, ..BASE },
        Mix { name: "end, retry, kill, loss", faults: Faults { ends: 1, retries: 1, kills: 1, losses: 1, ..QUIET }, ..BASE },
        Mix { name: "split, cut, duplicate", faults: Faults { splits: 1, cuts: 1, duplicates: 1, ..QUIET }, ..BASE },
        Mix { name: "deadline, 2 kills, cut", faults: Faults { deadlines: 1, kills: 2, cuts: 1, ..QUIET }, ..BASE },
        Mix { name: "panic", poison_after: 2, faults: Faults { panics: 2, kills: 1, lost_answers: 1, ..QUIET }, ..BASE },
    ]
}

#[test]
fn every_schedule() {
    let only: Option<usize> = std::env::var("MIX").ok().and_then(|m| m.parse().ok());
    for (n, mix) in mixes().into_iter().enumerate().filter(|(n, _)| only.is_none_or(|only| only == *n)) {
        let start = std::time::Instant::now();
        let verdict = explore::explore(&Job { mix, rules: Rules { without: None } }, true, 3_000_000);
        println!("{n:2} {:50} {:9} states {:9} transitions {:?}", mix.name, verdict.states, verdict.transitions, start.elapsed());
        if let Some((what, trace)) = verdict.violation {
            println!("   VIOLATION {what}");
            for line in trace { println!("   {line}"); }
        }
    }
    let _ = Rule::ALL;
}
