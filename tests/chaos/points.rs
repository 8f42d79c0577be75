//! Crash points: one run in which every named point kills a worker once.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use longshore::{
    clock,
    sandbox::{self, FaultKind, Params},
};
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    TURN,
    arena::{Arena, Options, program},
    broker, round, say, seed, servers,
};

const WORKERS: usize = 3;
/// So many jobs are under way as long as points are left.
const UNDER_WAY: usize = 12;
/// More are never made.
const MOST: usize = 240;
/// A worker that does not come to its point is killed, and another one is armed with it later.
const PATIENCE: Duration = Duration::from_secs(15);
/// All points have fired by then.
const LONGEST: Duration = Duration::from_secs(240);
/// The service holds answers back for longer than the point at a request that was sent waits.
const HELD_BACK: f64 = 1.6;
/// The point that only a worker passes that is asked to stop.
const GIVEN_BACK: &str = "give-back.after-publish";

/// How an armed worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Died {
    AtItsPoint,
    Elsewhere,
}

/// All points that a fleet's worker can pass, as the program lists them.
pub(crate) async fn listed() -> Result<Vec<String>> {
    let ran = program(&[]).arg("crash-points").output().await?;
    ensure!(ran.status.success(), "crash-points: {}", String::from_utf8_lossy(&ran.stderr));
    let listed: Value = serde_json::from_slice(&ran.stdout)?;
    let names = |key: &str| listed.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let of_steps = names("points").into_iter().filter_map(|point| point.get("name").cloned());
    let all = of_steps.chain(names("fleet")).filter_map(|name| name.as_str().map(str::to_owned)).collect::<Vec<_>>();
    ensure!(!all.is_empty(), "this build has no crash points");
    Ok(all)
}

/// Waits for the death of an armed worker.
pub(crate) async fn death(arena: &mut Arena, place: usize) -> Result<Died> {
    let mut looks = interval(Duration::from_millis(50));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let worker = arena.workers.get(place)?;
        if worker.ended()?.is_some() {
            return Ok(if worker.has_fired()? { Died::AtItsPoint } else { Died::Elsewhere });
        }
    }
}

/// Which points are left, and who is armed with which since when.
struct Run {
    left: VecDeque<String>,
    armed: BTreeMap<usize, (String, Instant)>,
    fired: BTreeSet<String>,
    /// Workers that were given up, because others came first.
    in_vain: usize,
}

impl Run {
    /// Looks after one worker.
    async fn tend(&mut self, arena: &mut Arena, place: usize) -> Result<()> {
        let Some((point, since)) = self.armed.get(&place).cloned() else { return Ok(()) };
        let worker = arena.workers.get(place)?;
        if worker.ended()?.is_some() {
            if worker.has_fired()? {
                self.fired.insert(point.clone());
            } else if point == GIVEN_BACK {
                self.in_vain += 1;
                self.left.push_back(point.clone());
            } else {
                bail!("the worker that was to die at {point} ended elsewhere; its log: {}", worker.log.display());
            }
            self.disarm(arena, &point).await?;
            return self.arm(arena, place);
        }
        if point == GIVEN_BACK && since.elapsed() > Duration::from_secs(4) && worker.says("health http") {
            // Asked once: the armed flag of its turn is spent.
            self.armed.insert(place, (point, clock::monotonic() + LONGEST));
            return arena.workers.ask_to_stop(place);
        }
        if since.elapsed() > PATIENCE {
            self.in_vain += 1;
            arena.workers.kill(place).await?;
            self.left.push_back(point.clone());
            self.disarm(arena, &point).await?;
            return self.arm(arena, place);
        }
        Ok(())
    }

    /// Another worker in its place, armed with the next point that nobody is armed with; unarmed when none is left.
    fn arm(&mut self, arena: &mut Arena, place: usize) -> Result<()> {
        self.armed.remove(&place);
        let point = self.left.pop_front();
        arena.workers.replace(place, point.as_deref())?;
        let Some(point) = point else { return Ok(()) };
        if is_at_request(&point) {
            let params = Params { seconds: Some(HELD_BACK), ..Params::default() };
            let slow = sandbox::Fault::next("api", FaultKind::Slow);
            arena.strike(sandbox::Fault { count: None, params, ..slow })?;
        }
        self.armed.insert(place, (point, clock::monotonic()));
        Ok(())
    }

    /// The service is fast again when nobody waits at a request any more.
    async fn disarm(&mut self, arena: &mut Arena, point: &str) -> Result<()> {
        self.armed.retain(|_, (armed, _)| armed != point);
        if is_at_request(point) && !self.armed.values().any(|(armed, _)| is_at_request(armed)) {
            arena.unstrike().await?;
        }
        Ok(())
    }
}

fn is_at_request(point: &str) -> bool {
    point.ends_with(".request-sent")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_named_point_kills_a_worker_once_and_nothing_is_lost_or_doubled() {
    if !servers::are_installed() {
        return;
    }
    let _turn = TURN.lock().await;
    let seed = seed();
    if let Err(error) = run(seed).await {
        panic!("crash points, seed {seed}: {error:#}");
    }
}

async fn run(seed: u64) -> Result<()> {
    let begun = clock::monotonic();
    let mut all = listed().await?;
    let count = all.len();
    all.shuffle(&mut StdRng::seed_from_u64(seed));
    let options =
        Options { name: "chaos/points".to_owned(), seed, lease: Duration::from_secs(6), ..Options::default() };
    let mut arena = Arena::start(broker("points-broker"), options).await?;
    let mut run = Run { left: all.into(), armed: BTreeMap::new(), fired: BTreeSet::new(), in_vain: 0 };
    for _ in 0..WORKERS {
        // The first ones die at once, and armed ones take their places.
        let place = arena.workers.add(None)?;
        arena.workers.kill(place).await?;
        run.arm(&mut arena, place)?;
    }
    let mut looks = interval(Duration::from_millis(50));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while run.fired.len() < count {
        looks.tick().await;
        for place in 0..WORKERS {
            run.tend(&mut arena, place).await?;
        }
        if arena.unfinished().len() < UNDER_WAY && arena.jobs.len() < MOST {
            let more = arena.make_jobs(UNDER_WAY / 2)?;
            arena.hand_in(&more).await?;
        }
        if begun.elapsed() > LONGEST {
            bail!("never fired: {:?} and {:?}; logs in {}", run.left, run.armed.values(), arena.root.display());
        }
    }
    let fired_after = begun.elapsed();
    arena.unstrike().await?;
    arena.ended(LONGEST).await?;
    arena.resolve(LONGEST).await?;
    let verdict = arena.verdict().await?;
    let what = format!(
        "crash points · seed {seed} · {count} points fired in {:.0} s, {} workers",
        fired_after.as_secs_f64(),
        arena.workers.started()
    );
    let is_kept = verdict.is_kept(0);
    say(&round::line(&what, &verdict, begun.elapsed(), is_kept));
    let problems = verdict.problems();
    ensure!(is_kept, "{}; logs in {}", problems.join("; "), arena.root.display());
    arena.close().await.map(drop).context("the arena")
}
