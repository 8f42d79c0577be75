//! `make fleet-demo`: a fleet on one machine, while workers are killed, the broker is killed and the memory is emptied.
//!
//! Everything is real but Microsoft: a private RabbitMQ and a private Redis on free ports, three worker processes of the program,
//! and the sandbox in this process. What is shown is read from the events that the fleet announces, from the sandbox's journal and
//! from its verdict. `SEED=n` draws other victims, `JOBS=n` hands in another number of jobs.

#[path = "../arena/mod.rs"]
#[allow(dead_code, reason = "shared with other targets")]
mod arena;
mod board;
#[path = "../secrets/run_folder.rs"]
mod run_folder;
#[path = "../secrets/search.rs"]
mod search;
#[path = "../servers/mod.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "shared"
)]
mod servers;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use longshore::clock;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use secrecy::ExposeSecret as _;
use tokio::{
    task::block_in_place,
    time::{MissedTickBehavior, interval},
};

use self::{
    arena::{Account, Arena, Broker, Options, Verdict},
    board::Board,
};

const WORKERS: usize = 3;
const ACCOUNTS: [&str; 4] = ["contoso", "fabrikam", "northwind", "tailspin"];
const KILL_EVERY: Duration = Duration::from_secs(2);
/// A demo that takes longer has failed.
const LONGEST: Duration = Duration::from_mins(10);

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fleet-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn number(name: &str, default: u64) -> Result<u64> {
    let told = std::env::var(name).ok().filter(|text| !text.is_empty());
    told.map_or(Ok(default), |text| text.parse().with_context(|| format!("{name} is a number, not {text:?}")))
}

#[tokio::main]
async fn run() -> Result<bool> {
    let (seed, jobs) = (number("SEED", 1)?, usize::try_from(number("JOBS", 200)?)?);
    ensure!(jobs > 0, "JOBS is at least 1");
    if !servers::are_installed() {
        bail!("RabbitMQ and Redis are needed: make services");
    }
    let begun = clock::monotonic();
    eprintln!("starting RabbitMQ, Redis and the sandbox ...");
    let broker = Broker::start(&run_folder::folder("fleet-demo/broker")?);
    let options = Options {
        name: "fleet-demo/fleet".to_owned(),
        seed,
        accounts: ACCOUNTS.map(|name| Account { name: name.to_owned(), is_marked: true }).to_vec(),
        ..Options::default()
    };
    let mut arena = Arena::start(broker, options).await?;
    let which = arena.make_jobs(jobs)?;
    let mut board = Board::new(&arena, jobs, WORKERS, seed);
    for _ in 0..WORKERS {
        arena.workers.add(None)?;
    }
    let handed_in = arena.hand_in(&which);
    let played = {
        let (handed_in, played) = tokio::join!(handed_in, play(&mut arena, &mut board, StdRng::seed_from_u64(seed)));
        handed_in.and(played)
    };
    if let Err(error) = played {
        board.close();
        let logs = arena.root.join("logs");
        arena.close().await?;
        return Err(error.context(format!("the workers' logs lie in {}", logs.display())));
    }
    let verdict = arena.verdict().await?;
    board.close();
    for signature in arena.sandbox.handed_out() {
        run_folder::register_secret(signature.expose_secret().as_bytes())?;
    }
    let (root, effects) = (arena.root.clone(), arena.effects("createProduct"));
    arena.close().await?;
    conclude(&verdict, effects, &root, begun)
}

/// Kills a worker every two seconds until every job has ended; the broker and the memory once each on the way.
async fn play(arena: &mut Arena, board: &mut Board, mut chance: StdRng) -> Result<()> {
    let begun = clock::monotonic();
    let (mut kills, mut looks) = (interval(KILL_EVERY), interval(Duration::from_millis(200)));
    kills.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    kills.tick().await;
    let (mut is_broker_due, mut is_memory_due) = (true, true);
    loop {
        tokio::select! {
            _ = kills.tick() => {
                let place = chance.random_range(0..WORKERS);
                arena.workers.kill(place).await?;
                arena.workers.replace(place, None)?;
                board.killed(arena.workers.killed);
            }
            _ = looks.tick() => {
                arena.workers.are_alive()?;
                let ended = board.look(arena);
                let all = arena.jobs.len();
                if ended == all {
                    return Ok(());
                }
                ensure!(begun.elapsed() < LONGEST, "{} of {all} jobs had not ended after {LONGEST:?}", all - ended);
                if is_broker_due && ended * 5 >= all {
                    is_broker_due = false;
                    arena.broker.grown().await;
                    board.broker_down();
                    block_in_place(|| {
                        arena.broker.server.kill();
                        arena.broker.server.start_again();
                    });
                    board.broker_up();
                }
                if is_memory_due && ended * 2 >= all {
                    is_memory_due = false;
                    block_in_place(|| arena.memory.primary.flush());
                    board.emptied(all - ended);
                }
            }
        }
    }
}

/// Prints the verdict; is it clean?
fn conclude(verdict: &Verdict, products: usize, root: &std::path::Path, begun: Instant) -> Result<bool> {
    let found = search::run(&run_folder::root())?;
    let (jobs, verified) = (verdict.jobs, verdict.verified);
    let problems = verdict.problems();
    let is_clean = verdict.is_kept(0) && verified == jobs && found.found.is_empty() && found.secrets > 0;
    println!(
        "\nverdict  {} {products} products for {jobs} jobs · doubled {} · lost {} · for a person {} · {verified} packages verified",
        if is_clean { "✔" } else { "✘" },
        verdict.doubled.len(),
        verdict.lost.len(),
        verdict.needs_person.0 + verdict.needs_person.1,
    );
    let (events, heard) = verdict.events;
    println!(
        "           {events} events, heard {heard} times (at least once: keep the first of an id) · secrets found {} in {} files",
        found.found.len(),
        found.files,
    );
    println!(
        "           nothing left in the broker {:.0} s after the last end · {:.0} s in all",
        verdict.emptied_after.as_secs_f64(),
        begun.elapsed().as_secs_f64(),
    );
    for problem in problems.iter().take(20) {
        println!("broken     {problem}");
    }
    for (path, form) in &found.found {
        println!("broken     a secret stands in {} ({form})", path.display());
    }
    println!("logs       {}", root.join("logs").display());
    if is_clean {
        println!("next       docs/FLEET.md: the same with your own RabbitMQ and Redis");
    }
    Ok(is_clean)
}
