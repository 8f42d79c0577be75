//! One round: a fleet at work, a pair of faults, and the verdict.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use longshore::clock;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    arena::{Arena, Broker, Options, Verdict},
    faults::{Fault, Service},
    say,
};

/// Jobs of a round: one half before the fault, the other while it lasts.
const JOBS: usize = 32;
const WORKERS: usize = 3;
/// No round's jobs take longer, on any machine.
const LONGEST: Duration = Duration::from_secs(240);

/// A round's folder below the run's.
pub(crate) fn folder(number: u64) -> String {
    format!("chaos/round-{number:03}")
}

/// Plays one round on this broker, says its line, and gives the broker back. The folder of a round that failed stays.
pub(crate) async fn run(broker: Broker, number: u64, seed: u64, (fault, service): (Fault, Service)) -> Result<Broker> {
    let begun = clock::monotonic();
    let options = Options {
        name: folder(number),
        seed,
        list_lag: service.list_lag(),
        has_sentinel: fault.needs_sentinel(),
        ..Options::default()
    };
    let what = format!("round {number} · seed {seed} · {}/{}", fault.name(), service.name());
    let mut arena = Arena::start(broker, options).await.with_context(|| what.clone())?;
    let played = play(&mut arena, seed, (fault, service)).await;
    let verdict = match played {
        Ok(verdict) => verdict,
        Err(error) => {
            let folder = arena.root.clone();
            say(&format!("chaos: {what} · FAILED after {:.0} s: {error:#}", begun.elapsed().as_secs_f64()));
            say(&again(seed, (fault, service)));
            arena.workers.stop().await.ok();
            bail!("{what}: {error:#}; its logs lie in {}", folder.display());
        }
    };
    let is_kept = verdict.is_kept(fault.may_double());
    say(&line(&what, &verdict, begun.elapsed(), is_kept));
    if !is_kept {
        verdict.problems().iter().for_each(|problem| say(&format!("    {problem}")));
        say(&again(seed, (fault, service)));
        bail!("{what}: {}; its logs lie in {}", verdict.problems().join("; "), arena.root.display());
    }
    arena.close().await
}

fn again(seed: u64, (fault, service): (Fault, Service)) -> String {
    format!("    alone: make chaos MINUTES=1 SEED={seed} PAIR={}/{}", fault.name(), service.name())
}

pub(crate) fn line(what: &str, verdict: &Verdict, took: Duration, is_kept: bool) -> String {
    let (marked, plain) = verdict.needs_person;
    let (events, copies) = verdict.events;
    format!(
        "chaos: {what} · {} jobs · lost {} · doubled {} · needs-person {marked} marked, {plain} plain · longest due {:.1} s, \
         empty after {:.1} s · {events} events, {copies} heard{} · {:.0} s · {}",
        verdict.jobs,
        verdict.lost.len(),
        verdict.doubled.len(),
        verdict.longest_due.as_secs_f64(),
        verdict.emptied_after.as_secs_f64(),
        if verdict.reworded > 0 { format!(", {} ends reworded", verdict.reworded) } else { String::new() },
        took.as_secs_f64(),
        if is_kept { "ok" } else { "FAILED" },
    )
}

async fn play(arena: &mut Arena, seed: u64, (fault, service): (Fault, Service)) -> Result<Verdict> {
    let mut chance = StdRng::seed_from_u64(seed);
    service.arm(arena)?;
    let all = arena.make_jobs(JOBS)?;
    let (first, second) = all.split_at(JOBS / 2);
    for _ in 0..WORKERS {
        arena.workers.add(None)?;
    }
    arena.hand_in(first).await?;
    arena.until("work is under way", LONGEST, async |arena| Ok(arena.effects("createProduct") > 2)).await?;
    let is_joined = chance.random_bool(0.5);
    let producer = arena.hand_in(second);
    let striking = async {
        if is_joined {
            kill_one(arena, &mut chance).await?;
        }
        fault.strike(arena, &mut chance).await?;
        if is_joined { kill_one(arena, &mut chance).await } else { Ok(()) }
    };
    let (handed_in, struck) = tokio::join!(producer, striking);
    struck.with_context(|| format!("{} could not strike", fault.name()))?;
    handed_in?;
    arena.ended(LONGEST).await?;
    arena.unstrike().await?;
    arena.resolve(LONGEST).await?;
    arena.verdict().await
}

/// Every second round a worker is killed besides, when the fault begins and when it is over.
async fn kill_one(arena: &mut Arena, chance: &mut StdRng) -> Result<()> {
    let place = chance.random_range(0..WORKERS);
    arena.workers.kill(place).await?;
    arena.workers.replace(place, None)
}
