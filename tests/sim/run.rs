//! One seed from its jobs to its verdict.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use longshore::{
    domain::{event::EndName, ids::JobKey, job::Job, step::Kind, ticket::Ticket},
    engine::{
        drain::{Lane, run},
        intake::{Control, ControlTicket},
        ports::Origin,
        settings::Settings,
        worker::Worker,
    },
};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    home::SimHome,
    service::{SimClock, SimPackages, SimPorts, SimService},
    world::World,
};

/// How a seed ended.
pub struct Report {
    pub seed: u64,
    pub problems: Vec<String>,
    pub hash: u64,
    pub struck: u32,
    pub needs_person: u32,
    pub completed: u32,
    pub jobs: u32,
    pub virtual_seconds: u64,
    pub trace: Vec<String>,
    pub counts: std::collections::BTreeMap<&'static str, u32>,
}

const WORKERS: u64 = 3;
const LANES: [Kind; 3] = Kind::ALL;

/// Runs one seed on a runtime of its own.
pub fn seed(seed: u64, is_traced: bool) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(Budget { polls: 2_000_000, inner: Box::pin(play(seed, is_traced)) })
}

/// Counts polls: a loop that never lets time pass is found by its number of polls.
struct Budget<F> {
    polls: u64,
    inner: Pin<Box<F>>,
}

impl<F: Future<Output = Report>> Future for Budget<F> {
    type Output = Report;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Report> {
        self.polls -= 1;
        assert!(self.polls > 0, "livelock: too many polls");
        self.inner.as_mut().poll(context)
    }
}

/// A world without faults in which the first job's package makes every reader panic.
pub fn panicking() -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = World::quiet();
        let jobs = submit(&world);
        world.lock().panics_at = Some(jobs[0].key());
        play_in(0, world, jobs).await
    })
}

async fn play(seed: u64, is_traced: bool) -> Report {
    let world = World::new(seed, is_traced);
    let jobs = submit(&world);
    play_in(seed, world, jobs).await
}

async fn play_in(seed: u64, world: World, jobs: Vec<Ticket>) -> Report {
    let keys: Vec<JobKey> = jobs.iter().map(Ticket::key).collect();
    let started = Instant::now();
    let outcome = {
        let workers = (0..WORKERS).map(|n| Box::pin(keep_working(world.clone(), keys.clone(), n)));
        let workers = futures_util::future::join_all(workers);
        tokio::select! {
            biased;
            _ = workers => Err("the workers ended"),
            done = tokio::time::timeout(Duration::from_secs(2 * 86_400), quiet(&world)) => done.map_err(|_| "stuck"),
        }
    };
    let mut problems = verdict(&world, &jobs);
    if let Err(why) = outcome {
        problems.insert(
            0,
            format!("{why}: {:?}", world.lock().messages.values().map(|m| (m.id, m.taken_by)).collect::<Vec<_>>()),
        );
    }
    let state = world.lock();
    let needs_person = state.set_aside.iter().filter(|end| end.name == EndName::DeadLettered).count() as u32;
    let completed = state.events.iter().filter(|e| e.name == longshore::domain::event::Name::Completed).count() as u32;
    Report {
        seed,
        problems,
        hash: state.hash,
        struck: state.struck,
        needs_person,
        completed,
        jobs: jobs.len() as u32,
        virtual_seconds: started.elapsed().as_secs(),
        trace: state.trace.clone(),
        counts: state.counts.clone(),
    }
}

/// The jobs of a seed, their duplicates and their wishes, published as their producers would.
fn submit(world: &World) -> Vec<Ticket> {
    let mut state = world.lock();
    let count = state.order.between(3, 5);
    let mut jobs = Vec::new();
    for n in 0..count {
        let account = ["contoso", "fabrikam"][state.order.below(2) as usize];
        let id = format!("job-{n}");
        let key = JobKey { account: account.parse().unwrap(), id: id.parse().unwrap() };
        let name = if state.mix.same_names && n < 3 { "driver".to_owned() } else { format!("driver {n}") };
        let deadline = if state.mix.deadlines && state.order.happens(0.3) {
            format!("{}s", state.order.between(60, 3_000))
        } else {
            "36h".to_owned()
        };
        let job = json!({
            "id": id, "kind": "submission", "account": account, "deadline": deadline,
            "spec": {
                "package": { "source": format!("sim:{}", serde_json::to_string(&key).unwrap()) },
                "product": { "create": {
                    "productName": name, "testHarness": "attestation", "deviceType": "internal", "isTestSign": false,
                    "isFlightSign": false, "requestedSignatures": ["WINDOWS_v100_X64_GE_FULL"],
                } },
                "submission": { "create": { "name": "first", "type": "initial" } },
                "download": { "to": "file:///out/", "kinds": ["signedPackage"] },
            },
        });
        let job = Job::decode(job.to_string().as_bytes(), || None).unwrap();
        let now = state.now();
        let ticket = Ticket::new(job.clone(), job.content_hash(), None, now);
        let body = serde_json::to_string(&job).unwrap();
        let first = now.after(Duration::from_millis(state.order.below(120_000)));
        state.publish(body.clone(), Origin::Producer, Kind::Submission, first);
        if state.mix.duplicates && state.order.happens(0.5) {
            let late = first.after(Duration::from_millis(state.order.below(1_500_000)));
            state.publish(body, Origin::Producer, Kind::Submission, late);
        }
        if state.mix.cancels && state.order.happens(0.3) {
            let control = ControlTicket {
                control: Control::Cancel,
                job: key,
                generation: None,
                until: now.after(Duration::from_secs(7_200)),
            };
            let at = first.after(Duration::from_millis(state.order.below(1_500_000)));
            state.publish(serde_json::to_string(&control).unwrap(), Origin::Return, Kind::StatusPoll, at);
        }
        jobs.push(ticket);
    }
    jobs
}

/// One worker slot: a worker, and after its death another.
async fn keep_working(world: World, jobs: Vec<JobKey>, slot: u64) {
    let mut life = 0;
    loop {
        let who = slot * 1_000 + life;
        life += 1;
        let home = SimHome { world: world.clone(), who };
        let start = world.lock().start;
        let ports = SimPorts {
            home,
            service: SimService { world: world.clone(), who, jobs: jobs.clone() },
            packages: SimPackages { world: world.clone(), who },
            clock: SimClock { world: world.clone(), start },
        };
        let mut settings = Settings::default();
        settings.markers.products = world.lock().mix.marks_products;
        let worker = Arc::new(Worker::new(Arc::new(ports), Arc::new(settings), u128::from(who) + 1));
        let lanes = LANES.map(|kind| Lane { kind, concurrency: 2 });
        let stop = CancellationToken::new();
        let killed = async {
            loop {
                let killed = world.killed.notified();
                if world.lock().dead.contains(&who) {
                    break;
                }
                killed.await;
            }
        };
        tokio::select! {
            biased;
            () = killed => {}
            () = run(worker, &lanes, &stop) => {}
        }
        let pause = Duration::from_millis(world.lock().order.between(500, 60_000));
        tokio::time::sleep(pause).await;
    }
}

/// Waits until nothing is queued, unacknowledged or being handled, and then a while longer.
async fn quiet(world: &World) {
    loop {
        loop {
            {
                let state = world.lock();
                if state.messages.is_empty() && state.inside == 0 {
                    break;
                }
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        tokio::time::sleep(Duration::from_secs(900)).await;
        let state = world.lock();
        if state.messages.is_empty() && state.inside == 0 {
            return;
        }
    }
}

/// Exactly one: one effect per (job, write), one end, nothing left, nothing foreign used.
fn verdict(world: &World, jobs: &[Ticket]) -> Vec<String> {
    let state = world.lock();
    let mut problems = Vec::new();
    for job in jobs {
        let key = job.key();
        let effects = state.effects.get(&key).cloned().unwrap_or_default();
        for (what, count) in
            [("products", effects.products), ("submissions", effects.submissions), ("commits", effects.commits)]
        {
            if count > 1 {
                problems.push(format!("{key}: {count} {what}"));
            }
        }
        let ends: Vec<_> = state.events.iter().filter(|e| e.job == key && e.name.is_end()).collect();
        let Some(first) = ends.first() else {
            problems.push(format!("{key}: lost, it has no end"));
            continue;
        };
        let other = ends.iter().find(|end| end.id != first.id || end.name != first.name);
        if let Some(other) = other
            && (state.memory_losses == 0 || other.id != first.id)
        {
            problems.push(format!("{key}: ended as {} and as {}", first.name, other.name));
        }
        match first.name {
            longshore::domain::event::Name::Completed => {
                for (what, count) in
                    [("product", effects.products), ("submission", effects.submissions), ("commit", effects.commits)]
                {
                    if count != 1 {
                        problems.push(format!("{key}: completed with {count} {what}s of its own"));
                    }
                }
                let id = first.data["product_id"].as_str().unwrap_or_default();
                let made_by = state.products.iter().find(|p| p.product.id.to_string() == id).map(|p| p.by.clone());
                if made_by.as_ref() != Some(&key) {
                    problems.push(format!("{key}: used product {id} of {made_by:?}"));
                }
            }
            name => {
                if !state.set_aside.iter().any(|end| end.ticket.key() == key) {
                    problems.push(format!("{key}: {name} and not set aside"));
                }
                let reason = first.data["reason"]["class"].as_str().unwrap_or_default().to_owned();
                let is_expected = match reason.as_str() {
                    "cancelled" => state.mix.cancels,
                    "deadline" => state.mix.deadlines,
                    // Five workers in a row can be lost to kills and freezes alone.
                    "poison" => state.struck >= 5,
                    // Ten answers in a row can be lost to a service that loses two of three.
                    "attempts-spent" => state.struck_by(&["lost answer", "lost request", "503"]) >= 10,
                    // Without memory, or with lists that lag beyond the last look, only a person can tell.
                    "needs-person" => {
                        state.memory_losses > 0
                            || state.mix.starts_unclean
                            || state.mix.same_names
                            || state.kills > 0
                            || state.struck > 0
                    }
                    _ => false,
                };
                if !is_expected {
                    problems.push(format!("{key}: ended as {name} ({reason}): {}", first.data["reason"]["message"]));
                }
            }
        }
    }
    problems.extend(state.early.iter().map(|early| format!("a 429 was answered early: {early}")));
    if !state.messages_aside.is_empty() {
        problems.push(format!("messages set aside: {:?}", state.messages_aside));
    }
    problems
}
