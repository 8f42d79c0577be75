//! One cell: the armed worker dies at its point, another one takes over, the job completes, and everything is checked.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use longshore::{
    clock,
    domain::step::{Place, Step},
    embedded::JobView,
    sandbox::{Fault, FaultKind, Match, Params},
};

use crate::{
    check::{self, entries},
    child::Worker,
    folder::World,
    matrix::{ANSWER_LOST, Cell, REQUEST_SENT},
};

/// No cell takes longer, on any machine.
const LONGEST: Duration = Duration::from_secs(60);
/// How long a death may take when the job has ended already.
const LATE_DEATH: Duration = Duration::from_secs(3);
/// How long the service holds an answer back: longer than the point waits, shorter than a worker's patience.
const HELD_BACK: f64 = 4.0;
/// How often conditions are looked at.
const LOOK: Duration = Duration::from_millis(10);

/// What a cell came to.
#[derive(Debug)]
pub(crate) struct Report {
    /// Empty when all held.
    pub(crate) problems: Vec<String>,
    /// Did its worker die at its point?
    pub(crate) is_dead: bool,
    /// From the death to the next worker's having the job, where the dead worker had it.
    pub(crate) takeover: Option<Duration>,
    pub(crate) took: Duration,
    pub(crate) folder: PathBuf,
}

impl Report {
    fn new(folder: PathBuf) -> Self {
        Self { problems: Vec::new(), is_dead: false, takeover: None, took: Duration::ZERO, folder }
    }

    /// Of a cell that could not even be played.
    pub(crate) fn panicked(folder: PathBuf) -> Self {
        Self { problems: vec!["it panicked, see above".to_owned()], ..Self::new(folder) }
    }
}

/// Runs a cell in its own folder.
pub(crate) async fn run(cell: &Cell, folder: &Path) -> Report {
    let begun = clock::monotonic();
    let name = cell.name().replace('.', "-");
    let world = World::make(folder, &name).await;
    let mut report = Report::new(folder.to_owned());
    for fault in faults(cell, &world) {
        world.sandbox.fault(fault).unwrap();
    }
    let played = tokio::time::timeout(LONGEST, play(cell, &world, &mut report)).await;
    let told = match played {
        Ok(told) => told,
        Err(_) => Err(format!("not over within {LONGEST:?}: {}", stands(&world).await)),
    };
    if let Err(problem) = told {
        report.problems.push(problem);
    }
    if let Err(error) = world.register_secrets() {
        report.problems.push(format!("its secrets cannot be registered: {error}"));
    }
    world.sandbox.stop().await;
    report.took = begun.elapsed();
    report
}

/// What the sandbox does in this cell.
fn faults(cell: &Cell, world: &World) -> Vec<Fault> {
    let of_try = |number: u32, fault| {
        let step = Step::ALL.into_iter().find(|step| step.name() == cell.row.step).unwrap();
        let place = Place { r#try: number, ..Place::FIRST.at_step(step.number()) };
        // One id per (job, step, try): the first call that carries it.
        let request = world.ticket.key().uuid(&["request", &place.to_string()]);
        let matching = Match { request_id: Some(request.to_string()), ..Match::default() };
        Fault { matching, ..Fault::next("api", fault) }
    };
    let mut faults: Vec<Fault> = cell.row.before.iter().map(|fault| of_try(0, *fault)).collect();
    if let Some(kind) = struck(cell) {
        let params = Params { seconds: (kind == FaultKind::Slow).then_some(HELD_BACK), ..Params::default() };
        let fault = cell.row.blob.map_or_else(|| of_try(cell.row.r#try, kind), |blob| Fault::next(blob, kind));
        faults.push(Fault { params, ..fault });
    }
    faults
}

/// What strikes the cell's own request.
fn struck(cell: &Cell) -> Option<FaultKind> {
    match cell.edge.as_str() {
        REQUEST_SENT => Some(FaultKind::Slow),
        ANSWER_LOST => Some(FaultKind::LostAnswer),
        _ => None,
    }
}

async fn play(cell: &Cell, world: &World, report: &mut Report) -> Result<(), String> {
    let mut worker = match cell.armed() {
        Some((point, pass)) => {
            let mut doomed = Worker::start(world, "first", Some((&point, pass)));
            death(world, &mut doomed, &point).await?;
            report.is_dead = true;
            let died = clock::monotonic();
            was_held_back(cell, world)?;
            let left = view(world).await;
            let next = Worker::start(world, "second", None);
            report.takeover = taken_over(world, &left, died).await;
            next
        }
        None => Worker::start(world, "only", None),
    };
    let view = loop_until(async || {
        let view = view(world).await;
        view.state().is_end().then_some(view)
    })
    .await;
    was_struck(cell, world)?;
    report.problems.extend(check::all(world, &view).await);
    if !worker.is_alive() {
        report.problems.push("the worker that nobody killed has ended".to_owned());
    }
    worker.kill().await;
    Ok(())
}

/// Waits for the armed worker to die at its point; a job that ends without it never came there.
async fn death(world: &World, doomed: &mut Worker, point: &str) -> Result<(), String> {
    let over = async {
        loop_until(async || view(world).await.state().is_end().then_some(())).await;
        // Behind the last settlement the point itself comes after the end.
        tokio::time::timeout(LATE_DEATH, std::future::pending::<()>()).await.ok();
    };
    let status = tokio::select! {
        biased;
        status = doomed.ended() => status,
        () = over => {
            let view = view(world).await;
            return Err(format!("never reached: the job ended {} and its worker lives", view.state()));
        }
    };
    doomed.died_at(status, point)
}

/// At `request-sent` the request was executed, and answered by nobody, before the worker died.
fn was_held_back(cell: &Cell, world: &World) -> Result<(), String> {
    if cell.edge != REQUEST_SENT {
        return Ok(());
    }
    let journal = world.sandbox.journal();
    let slow = entries(&journal).find(|entry| entry["fault"] == "slow");
    match slow {
        None => Err("the worker died before its request was executed".to_owned()),
        Some(entry) if cell.is_write() && entry["effect"] != true => {
            Err(format!("the request that was held back had no effect: {entry}"))
        }
        Some(_) => Ok(()),
    }
}

/// Every fault of the cell hit a request.
fn was_struck(cell: &Cell, world: &World) -> Result<(), String> {
    let journal = world.sandbox.journal();
    let wanted = cell.row.before.into_iter().chain(struck(cell));
    for kind in wanted {
        let name = serde_json::to_value(kind).unwrap();
        if !entries(&journal).any(|entry| entry["fault"] == name) {
            return Err(format!("never reached: the journal holds no {name}"));
        }
    }
    Ok(())
}

/// How long the job had nobody; none when the dead worker had let it go before.
async fn taken_over(world: &World, left: &JobView, died: Instant) -> Option<Duration> {
    if left.state().is_end() || left.summary.next_due.is_some() {
        return None;
    }
    // A claim changes the record, even one whose holder has parked the job again before anybody looked.
    loop_until(async || (view(world).await.record != left.record).then(|| died.elapsed())).await.into()
}

async fn view(world: &World) -> JobView {
    world.home.job(&world.ticket.key()).await.unwrap().expect("the job was accepted")
}

/// Where the job stands, for a cell that does not end.
async fn stands(world: &World) -> String {
    let view = view(world).await;
    format!("{} at {}, next due {:?}", view.state(), view.summary.place, view.summary.next_due)
}

/// Looks again and again; whoever calls has a deadline.
async fn loop_until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        ticks.tick().await;
        if let Some(seen) = look().await {
            return seen;
        }
    }
}
