//! The load run: many submissions over several worker processes on one home, with lost answers, 5xx and SIGKILLs.
//!
//! Started by `make load` only. `SEED=n` draws other faults and victims, `JOBS=n` hands in another number of jobs.

mod drivers;
mod findings;
mod fleet;
mod folder;
mod permits;
#[path = "../secrets/run_folder.rs"]
mod run_folder;
#[path = "../secrets/search.rs"]
mod search;

use std::{
    fs,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use longshore::{
    app::App,
    clock,
    config::{self, Surroundings},
    embedded::{JobFilter, State},
    sandbox::Sandbox,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use secrecy::ExposeSecret as _;
use tokio::time::{MissedTickBehavior, interval};

use self::{drivers::Driver, findings::Findings, fleet::Fleet, folder::Folder};

/// Calls a second that the account is allowed.
const RATE: u32 = 20;
const WORKERS: usize = 4;
const KILL_EVERY: Duration = Duration::from_secs(2);
/// A run that takes longer has failed.
const LONGEST: Duration = Duration::from_mins(20);

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn number(name: &str, default: u64) -> Result<u64> {
    std::env::var(name).map_or(Ok(default), |text| text.parse().with_context(|| format!("{name} is a number")))
}

#[tokio::main]
async fn run() -> Result<bool> {
    let (seed, jobs) = (number("SEED", 1)?, usize::try_from(number("JOBS", 200)?)?);
    println!(
        "load: {jobs} submissions, {WORKERS} workers, one killed every {} s, {RATE} calls a second, \
         2 % of all answers lost, 2 % 5xx, seed {seed}",
        KILL_EVERY.as_secs()
    );
    let folder = Folder::make()?;
    let sandbox = Sandbox::start(folder.sandbox(seed)).await?;
    let configuration = folder.configure(&sandbox)?;
    let app = App::open(config::load_in(&Surroundings::default(), &configuration)?)?;
    permits::watch(app.home.file())?;
    let drivers: Vec<Driver> = (0..jobs)
        .map(|n| drivers::build(n, seed, &folder.at("cabinets"), &folder.at("signed")))
        .collect::<Result<_>>()?;
    folder::arm(&sandbox)?;

    let begun = clock::monotonic();
    let mut fleet = Fleet::start(WORKERS, configuration.clone(), &folder.at("logs"))?;
    submit(&folder, &configuration, &drivers).await?;
    println!("load: {jobs} jobs accepted after {:.1} s", begun.elapsed().as_secs_f64());
    follow(&app, &mut fleet, StdRng::seed_from_u64(seed), begun).await?;
    let took = begun.elapsed();

    let kills = (fleet.kills.clone(), fleet.started());
    fleet.stop().await?;
    sandbox.inspected().await;
    for signature in sandbox.handed_out() {
        run_folder::register_secret(signature.expose_secret().as_bytes())?;
    }
    run_folder::register_home(&folder.at("home"))?;
    let findings = Findings::gather(&app, &sandbox, &drivers, &kills.0, kills.1).await?;
    drop(app);
    sandbox.stop().await;
    findings.print(took, seed, folder.root())
}

/// Hands all jobs in as a producer does: one command, a job a line.
async fn submit(folder: &Folder, configuration: &[std::path::PathBuf], drivers: &[Driver]) -> Result<()> {
    let file = folder.at("jobs.ndjson");
    fs::write(&file, drivers.iter().flat_map(|driver| [driver.job.as_str(), "\n"]).collect::<String>())?;
    let output = fleet::program(configuration).arg("submit").arg(&file).output().await?;
    if !output.status.success() {
        bail!("submit ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let accepted = String::from_utf8_lossy(&output.stdout).lines().count();
    ensure!(accepted == drivers.len(), "submit accepted {accepted} of {} jobs", drivers.len());
    Ok(())
}

/// Kills a worker every two seconds until every job has ended.
async fn follow(app: &App, fleet: &mut Fleet, mut chance: StdRng, begun: Instant) -> Result<()> {
    let mut kill = interval(KILL_EVERY);
    let mut look = interval(Duration::from_millis(500));
    kill.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = 0;
    loop {
        tokio::select! {
            _ = kill.tick() => fleet.kill(chance.random_range(0..WORKERS)).await?,
            _ = look.tick() => {
                let jobs = app.home.jobs(JobFilter { limit: 10_000, ..JobFilter::default() }).await?;
                let ended = jobs.iter().filter(|job| job.state.is_end()).count();
                if ended == jobs.len() {
                    return Ok(());
                }
                let seconds = begun.elapsed().as_secs();
                if seconds / 10 > told {
                    told = seconds / 10;
                    println!("load: {seconds:>4} s  {}", states(&jobs.iter().map(|job| job.state)));
                }
                if begun.elapsed() > LONGEST {
                    for job in jobs.iter().filter(|job| !job.state.is_end()).take(20) {
                        println!("load: {} is {} at {}, due {:?}", job.key, job.state, job.place, job.next_due);
                    }
                    bail!("{} of {} jobs had not ended after {} s", jobs.len() - ended, jobs.len(), seconds);
                }
            }
        }
    }
}

fn states(of: &(impl Iterator<Item = State> + Clone)) -> String {
    let count = |state| (state, of.clone().filter(|is| *is == state).count());
    let filled = State::ALL.into_iter().map(count).filter(|(_, count)| *count > 0);
    filled.map(|(state, count)| format!("{state} {count}")).collect::<Vec<_>>().join(" · ")
}
