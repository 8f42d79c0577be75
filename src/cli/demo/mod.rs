//! `longshore demo`: five drivers from files on disk to signed packages, each with a trouble of its own, and a verdict.
//!
//! Everything is real but Microsoft: the sandbox runs in this process, the workers are child processes of the same
//! program on a home of their own. Nothing that is shown is scripted: it is read from events, from the sandbox's journal
//! and from its verdict.

mod drivers;
mod findings;
mod folder;
mod screen;
mod table;
mod workers;

use std::{path::PathBuf, time::Duration};

use clap::Args;

use self::{
    drivers::{Driver, Trouble},
    findings::Findings,
    folder::Folder,
    table::Table,
    workers::Workers,
};
use super::{
    context::Context,
    exit::Exit,
    intake::{self, Taken, Text},
    output::{OutputFormat, Problem, Style, duration},
    signals::Signals,
    stop::{Outcome, Stop},
    watch::Watch,
};
use crate::{
    app::{App, settings},
    clock,
    config::{self, Surroundings},
    domain::step::Step,
    embedded::JobView,
    sandbox::Sandbox,
};

/// How often news are looked for: short enough to see who takes over from a killed worker.
const LOOK: Duration = Duration::from_millis(10);
/// A demo that takes longer has failed.
const LONGEST: Duration = Duration::from_secs(120);
/// Worker processes.
const WORKERS: usize = 2;

/// Carries five drivers from files to signed packages against a simulated Partner Center, through five kinds of trouble.
///
/// Needs nothing: no account, no configuration, no network. The signed packages are left in --out.
///
/// Example: longshore demo
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where the signed packages go
    #[arg(long, value_name = "FOLDER", default_value = "demo-out", value_hint = clap::ValueHint::DirPath)]
    out: PathBuf,
    /// Keep the demo's home, logs and packages
    #[arg(long)]
    keep: bool,
}

pub(super) async fn run(context: &mut Context, arguments: Arguments) -> Outcome {
    let begun = clock::monotonic();
    let signals = Signals::listen();
    let mut folder = Folder::make(&arguments.out).map_err(Stop::local)?;
    let nothing_set = config::load_in(&Surroundings::default(), &[])?;
    let told = settings::sandbox(&nothing_set.settings).map_err(|error| Stop::internal(error.to_string()))?;
    let sandbox = Sandbox::start(folder.sandbox_options(told)).await.map_err(|error| {
        let problem = Problem::new("the sandbox cannot be started").what(error.to_string());
        Stop::new(Exit::LocalIo, problem.next("see whether 127.0.0.1 can be listened on"))
    })?;
    let configuration = folder.write_configuration(&sandbox).map_err(Stop::local)?;
    let loaded = config::load_in(&Surroundings::default(), &configuration)?;
    let app = App::open(loaded)?;
    let mut drivers = drivers::all().map_err(|malformed| Stop::internal(malformed.to_string()))?;
    for driver in &drivers {
        driver.arm(&sandbox).map_err(Stop::internal)?;
    }
    let mut workers = Workers::new(configuration, folder.logs());
    for _ in 0..WORKERS {
        workers.start().map_err(Stop::local)?;
    }
    let mut table = Table::new(context, &sandbox, WORKERS, &drivers)?;
    for driver in &mut drivers {
        submit(&app, &folder, driver).await?;
    }
    let seen = {
        let followed = follow(&app, &mut drivers, &mut workers, &mut table);
        tokio::select! {
            followed = followed => followed,
            () = tokio::time::sleep(LONGEST) => Err(late()),
            () = signals.stop.cancelled() => Err(Stop::new(Exit::Cancelled, Problem::new("the demo was stopped"))),
        }
    };
    // A worker that still runs at the end is stopped in order; its log stays as long as the folder.
    workers.stop().await;
    let findings = match seen {
        Ok(watch) => Findings::gather(&app, &folder, &sandbox, &drivers, &watch, &workers).await,
        Err(stop) => Err(stop),
    };
    drop(app);
    sandbox.stop().await;
    let findings = findings.inspect_err(|_| folder.keep()).map_err(|stop| with_logs(stop, &folder))?;
    if arguments.keep || !findings.broken.is_empty() {
        folder.keep();
    }
    table.close(&findings);
    conclude(context, &arguments, &folder, &findings, begun.elapsed())
}

fn late() -> Stop {
    let problem = Problem::new(format!("the demo did not end within {}", duration(LONGEST)));
    Stop::new(Exit::TimedOut, problem.next("run it again on a machine that has time for it, or read the logs"))
}

fn with_logs(stop: Stop, folder: &Folder) -> Stop {
    let logs = format!("the workers' logs lie in {}", folder.logs().display());
    Stop { problem: stop.problem.map(|problem| Box::new(problem.next(logs))), ..stop }
}

/// Builds the driver's cabinet and hands its job in, as `longshore submit` does.
async fn submit(app: &App, folder: &Folder, driver: &mut Driver) -> Result<(), Stop> {
    let cabinet = folder.cabinets().join(format!("{}.cab", driver.name));
    driver.build(&cabinet).map_err(|error| Stop::local(format!("{} cannot be built: {error}", cabinet.display())))?;
    let bytes = driver.job(&cabinet, folder.out()).map_err(Stop::internal)?.into_bytes();
    let text = Text { place: driver.name.to_owned(), bytes };
    let job = intake::decode(app, &text, false).map_err(|refused| Stop::from(*refused))?;
    let checked = intake::check(app, job).await.map_err(|refused| Stop::from(*refused))?;
    driver.sha256 = checked.facts.as_ref().map(|facts| facts.sha256);
    match intake::accept(app, checked).await?.map_err(|refused| Stop::from(*refused))? {
        Taken::New(_) => Ok(()),
        Taken::Same(view) => Err(Stop::internal(format!("job {} was there before the demo", view.summary.key))),
    }
}

/// Follows all drivers to their ends, and kills the worker of the one whose trouble that is.
async fn follow(app: &App, drivers: &mut [Driver], workers: &mut Workers, table: &mut Table) -> Result<Watch, Stop> {
    let mut watch = Watch::new(drivers.iter().map(Driver::key));
    loop {
        for event in watch.news(&app.home).await? {
            table.event(&event);
        }
        let mut open = 0;
        for driver in drivers.iter_mut() {
            let Some(view) = app.home.job(&driver.key()).await? else { continue };
            table.look(&view);
            if driver.trouble == Trouble::WorkerKilled {
                kill(app, driver, &view, workers).await?;
            }
            open += usize::from(!view.state().is_end());
        }
        if open == 0 {
            for event in watch.news(&app.home).await? {
                table.event(&event);
            }
            return Ok(watch);
        }
        workers.check().map_err(Stop::internal)?;
        tokio::time::sleep(LOOK).await;
    }
}

/// While the driver's upload is in a worker's hands: SIGKILL to that worker, and another one in its place.
async fn kill(app: &App, driver: &mut Driver, view: &JobView, workers: &mut Workers) -> Result<(), Stop> {
    match (&mut driver.killed, view.holder) {
        (None, Some(holder)) if view.summary.place.step == Step::Upload.number() => {
            let Some(worker) = app.home.workers().await?.into_iter().find(|worker| worker.id == holder) else {
                return Ok(());
            };
            if workers.kill(worker.pid).await.map_err(Stop::internal)? {
                driver.killed = Some(drivers::Killed { holder, at: clock::monotonic(), taken_over: None });
                workers.start().map_err(Stop::local)?;
            }
        }
        (Some(killed), Some(holder)) if killed.taken_over.is_none() && holder != killed.holder => {
            killed.taken_over = Some(killed.at.elapsed());
        }
        (_, _) => {}
    }
    Ok(())
}

fn conclude(
    context: &mut Context,
    arguments: &Arguments,
    folder: &Folder,
    findings: &Findings,
    took: Duration,
) -> Outcome {
    if matches!(context.global.output, OutputFormat::Json | OutputFormat::Ndjson) {
        context.out.document(&findings.document(folder, took))?;
    } else {
        let is_live = context.style.is_live && context.aside.is_live;
        let text = screen::verdict(&Style { is_live, ..context.style }, findings, &arguments.out, took);
        context.out.text(&text)?;
    }
    if findings.broken.is_empty() {
        return Ok(Exit::Done);
    }
    Err(Stop::new(Exit::SomeFailed, screen::failure(findings, &folder.logs())))
}
