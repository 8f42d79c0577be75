//! Jobs that do nothing, with everything on: claimed, recorded, one confirmed event, acknowledged; by the real program,
//! beside a consumer written by hand on lapin and beside Celery with `acks_late`.
//!
//! A job without a call at the service has one step, `preflight`. As a producer hands it in it announces three events
//! (accepted, started, completed); as a ticket at its second try it announces one, which is what the goal speaks of: both
//! are measured. All publish into the same quorum queue. Each is given the same number of messages ahead. Measured is the
//! span from the first tenth of the events to the last, seen in that queue, and the processor time of worker, broker and
//! memory in it. Runs alternate; the medians of the ratios within a round are what counts. `NOOP_JOBS`, `NOOP_RUNS`, `NOOP_AT_ONCE`.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use lapin::BasicProperties;
use longshore::{
    clock,
    domain::{job::Job, ticket::Ticket},
    rabbitmq::Names,
};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    bed::{self, Bed, PREFIX, Role},
    celery::{self, Celery},
    figures::{Figures, number, say, verdict},
    plain::Plain,
    process,
};

/// Where all events end up.
const EVENTS: &str = "bench.events";
/// The hand-written loop's queue.
const LANE: &str = "bench.plain";
/// Bytes of an event, about those of ours.
const EVENT: usize = 700;
/// No run may take longer.
const RUN: Duration = Duration::from_mins(5);

const LOOP_GOAL: f64 = 0.5;
const CPU_GOAL: f64 = 2.0;
const CELERY_GOAL: f64 = 5.0;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Plain,
    /// Tickets of one event.
    Ours,
    /// Jobs as they are handed in, of three events.
    OursWhole,
    Celery,
}

impl Who {
    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "hand-written lapin loop",
            Self::Ours => "longshore, one event",
            Self::OursWhole => "longshore, whole job, three events",
            Self::Celery => "Celery 5, acks_late, prefork 2",
        }
    }

    const fn events(self) -> u64 {
        match self {
            Self::Plain | Self::Ours | Self::Celery => 1,
            Self::OursWhole => 3,
        }
    }
}

/// One run.
#[derive(Debug, Clone, Copy, Default)]
struct Ran {
    rate: f64,
    /// Seconds for 10,000 jobs: worker, broker, memory.
    cpu: [f64; 3],
    memory: f64,
}

impl Ran {
    fn cpu(&self) -> f64 {
        self.cpu.iter().sum()
    }
}

/// All runs of one of them.
#[derive(Default)]
struct Row {
    rate: Figures,
    cpu: [Figures; 3],
    whole: Figures,
    memory: Figures,
}

struct Bench {
    bed: Bed,
    sandbox: longshore::sandbox::Sandbox,
    jobs: u64,
    at_once: u16,
    round: u64,
}

pub(crate) async fn run() -> Result<()> {
    let (jobs, runs) = (number("NOOP_JOBS", 20_000), number("NOOP_RUNS", 5));
    let at_once = u16::try_from(number("NOOP_AT_ONCE", 64)).context("NOOP_AT_ONCE")?;
    let bed = Bed::new().await?;
    bed.queue(EVENTS, true).await?;
    bed.queue(LANE, true).await?;
    bed.queue(celery::QUEUE, false).await?;
    bed.bind(&Names::new(PREFIX).events(), EVENTS, "#").await?;
    let sandbox = bed::sandbox(&bed.path(""), &["bench"]).await?;
    let mut all = vec![Who::Plain, Who::Ours, Who::OursWhole];
    match celery::installed() {
        Some(_) => all.push(Who::Celery),
        None => say("Celery is not installed: left out (make bench installs it)"),
    }
    say(&format!("{jobs} jobs a run, {runs} runs in turn, {at_once} given out ahead"));
    let mut bench = Bench { bed, sandbox, jobs, at_once, round: 0 };
    let mut rounds: Vec<Vec<(Who, Ran)>> = Vec::new();
    for round in 0..runs {
        let mut ran = Vec::new();
        let first = usize::try_from(round)? % all.len();
        for who in all.iter().cycle().skip(first).take(all.len()) {
            bench.round += 1;
            ran.push((*who, bench.one(*who).await.with_context(|| who.name())?));
        }
        rounds.push(ran);
    }
    tell(&all, &rounds);
    say(&format!("connections lost on the way: {}", bench.bed.reconnects()));
    bench.sandbox.stop().await;
    Ok(())
}

impl Bench {
    async fn one(&self, who: Who) -> Result<Ran> {
        self.bed.purge(EVENTS).await?;
        self.fill(who).await?;
        let mut ours = None;
        let mut plain = None;
        let mut celery = None;
        let pid = match who {
            Who::Plain => {
                let told = Plain {
                    broker: self.bed.broker.url(),
                    queue: LANE.to_owned(),
                    exchange: Names::new(PREFIX).events(),
                    at_once: self.at_once,
                    event: EVENT,
                };
                plain.insert(Role::start("plain", &told)?).pid()?
            }
            Who::Ours | Who::OursWhole => {
                // The intake lanes are given three quarters of it ahead, the return lanes all.
                let more = format!("[worker]\nconcurrency = {}\n[topology]\nkinds = [\"submission\"]\n", self.at_once);
                let files = self.bed.configuration(&self.sandbox, &more)?;
                ours.insert(self.bed.worker(&files, &[])?).id().context("the worker has ended")?
            }
            Who::Celery => {
                let program = celery::installed().context("Celery is not installed")?;
                let prefetch = self.at_once / celery::POOL;
                let told = celery::Told { acks_late: true, prefetch, event: EVENT, effects: None };
                celery.insert(Celery::start(&self.bed, &program, &told)?).pid()
            }
        };
        let ran = self.measure(pid, who.events()).await;
        if ran.is_err() {
            eprintln!("{}", self.bed.log());
        }
        // What is confirmed is acknowledged a moment later.
        sleep(Duration::from_millis(300)).await;
        ran
    }

    async fn fill(&self, who: Who) -> Result<()> {
        let names = Names::new(PREFIX);
        let round = self.round;
        let jobs = (0..self.jobs).map(|number| {
            json!({ "id": format!("noop-{round}-{number}"), "kind": "submission", "account": "bench",
                    "spec": { "product": { "id": "1" } } })
        });
        match who {
            Who::Plain => {
                let messages = jobs.map(|job| (BasicProperties::default(), job.to_string().into_bytes()));
                // By way of an exchange, as all others.
                self.bed.bind("amq.topic", LANE, "bench").await?;
                self.bed.purge(LANE).await?;
                self.bed.fill(("amq.topic", "bench"), messages).await
            }
            Who::Ours => {
                let messages = jobs.filter_map(|job| {
                    let job = Job::decode(job.to_string().as_bytes(), || None).ok()?;
                    let (hash, now) = (job.content_hash(), clock::moment());
                    let ticket = Ticket::new(job, hash, Some("guest".to_owned()), now).next_try(now);
                    Some((BasicProperties::default(), serde_json::to_vec(&ticket).ok()?))
                });
                self.bed.fill((&names.out(), "submission"), messages).await
            }
            Who::OursWhole => {
                let user = BasicProperties::default().with_user_id("guest".into());
                let messages = jobs.map(|job| (user.clone(), job.to_string().into_bytes()));
                self.bed.fill((&names.jobs(), "submission"), messages).await
            }
            Who::Celery => {
                self.bed.bind("amq.topic", celery::QUEUE, "celery").await?;
                self.bed.purge(celery::QUEUE).await?;
                let messages = (0..self.jobs).map(|number| celery::message(&format!("noop-{round}-{number}"), None));
                self.bed.fill(("amq.topic", "celery"), messages).await
            }
        }
    }

    async fn measure(&self, pid: u32, events: u64) -> Result<Ran> {
        let (first, last) = (self.jobs * events / 10, self.jobs * events);
        let begun = clock::monotonic();
        let mut start = None;
        loop {
            let seen = self.bed.depth(EVENTS).await?;
            let now = clock::monotonic();
            if seen >= first {
                let cpu = self.cpu(pid)?;
                let (at, from, before) = *start.get_or_insert((now, seen, cpu));
                if seen >= last {
                    #[expect(clippy::cast_precision_loss, reason = "a count of jobs")]
                    let jobs = (seen - from) as f64 / events as f64;
                    let seconds = now.duration_since(at).as_secs_f64();
                    let mut per = [0.0; 3];
                    for ((per, now), before) in per.iter_mut().zip(cpu).zip(before) {
                        *per = (now - before) / jobs * 10_000.0;
                    }
                    return Ok(Ran { rate: jobs / seconds, cpu: per, memory: process::most_resident(pid) });
                }
            }
            if now.duration_since(begun) > RUN {
                bail!("{seen} of {last} events came in {} s", RUN.as_secs());
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn cpu(&self, pid: u32) -> Result<[f64; 3]> {
        let [broker, memory] = self.bed.servers_cpu()?;
        Ok([process::cpu(pid)?, broker, memory])
    }
}

fn tell(all: &[Who], rounds: &[Vec<(Who, Ran)>]) {
    say(
        "program                             jobs/s                       CPU s per 10,000 jobs: worker broker redis = all   worker MiB",
    );
    for who in all {
        let mut row = Row::default();
        for ran in of(rounds, *who) {
            row.rate.add(ran.rate);
            row.whole.add(ran.cpu());
            row.memory.add(ran.memory);
            for (figures, cpu) in row.cpu.iter_mut().zip(ran.cpu) {
                figures.add(cpu);
            }
        }
        let [worker, broker, memory] = &row.cpu;
        say(&format!(
            "{:<35} {:<28} {:>24.2} {:>6.2} {:>5.2} = {:>5.2} {:>13.1}",
            who.name(),
            row.rate.spread(0),
            worker.median(),
            broker.median(),
            memory.median(),
            row.whole.median(),
            row.memory.median()
        ));
    }
    let ratio = |who: Who, to: Who, of_cpu: bool| -> Figures {
        let figure = |ran: &Ran| if of_cpu { ran.cpu() } else { ran.rate };
        rounds
            .iter()
            .filter_map(|round| {
                let find = |wanted| round.iter().find(|(who, _)| *who == wanted).map(|(_, ran)| figure(ran));
                Some(find(who)? / find(to)?)
            })
            .collect()
    };
    for who in [Who::Ours, Who::OursWhole] {
        say(&format!("ratios of: {}", who.name()));
        let speed = ratio(who, Who::Plain, false);
        say(&format!(
            "  speed to the loop      {}   goal ≥ {LOOP_GOAL}: {}",
            speed.spread(2),
            verdict(speed.median() >= LOOP_GOAL)
        ));
        let cpu = ratio(who, Who::Plain, true);
        say(&format!(
            "  CPU to the loop        {}   goal ≤ {CPU_GOAL}: {}",
            cpu.spread(2),
            verdict(cpu.median() <= CPU_GOAL)
        ));
        if all.contains(&Who::Celery) {
            let speed = ratio(who, Who::Celery, false);
            say(&format!(
                "  speed to Celery        {}   goal ≥ {CELERY_GOAL}: {}",
                speed.spread(1),
                verdict(speed.median() >= CELERY_GOAL)
            ));
        }
    }
}

fn of(rounds: &[Vec<(Who, Ran)>], wanted: Who) -> impl Iterator<Item = &Ran> {
    rounds.iter().flatten().filter(move |(who, _)| *who == wanted).map(|(_, ran)| ran)
}
