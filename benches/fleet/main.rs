//! `make bench`: the fleet on private servers, each figure beside its goal, and `make crash-table`.
//!
//! `BENCH=noop,recovery` runs the named parts alone; what each of them measures stands at its head. Whoever is measured
//! is a process of its own: the real program, or this very program in a role. Prints figures and judges nothing;
//! everything ends by a time limit, and takes its servers and processes with it.

#![expect(clippy::print_stdout, reason = "figures are what a bench is for")]

mod bed;
mod celery;
mod clients;
mod crash_table;
mod fair;
mod figures;
mod idle;
mod noop;
mod parked;
mod plain;
mod process;
mod quota;
mod recovery;
mod role;
mod tokens;

#[path = "../../tests/servers/mod.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "shared with the tests"
)]
mod servers;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use self::figures::say;

/// The parts of `make bench`, in their order.
const PARTS: [&str; 7] = ["noop", "idle", "quota", "tokens", "parked", "fair", "recovery"];

/// No part may take longer.
const PART: Duration = Duration::from_mins(60);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build()?;
    match arguments.as_slice() {
        [word, role, told] if word == "role" => runtime.block_on(role::play(role, told)),
        _ => runtime.block_on(until_stopped(run())),
    }
}

/// Whoever stops a bench stops its servers and processes with it: they are dropped, not left.
async fn until_stopped(work: impl Future<Output = Result<()>>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => bail!("stopped"),
        _ = terminate.recv() => bail!("stopped"),
    }
}

async fn run() -> Result<()> {
    if !servers::are_installed() {
        return Ok(());
    }
    let wanted = std::env::var("BENCH").unwrap_or_default();
    let parts: Vec<&str> = if wanted.is_empty() { PARTS.to_vec() } else { wanted.split(',').map(str::trim).collect() };
    figures::machine().await?;
    for part in parts {
        say(&format!("\n── {part}"));
        tokio::time::timeout(PART, one(part))
            .await
            .with_context(|| format!("{part} took longer than {} minutes", PART.as_secs() / 60))?
            .with_context(|| part.to_owned())?;
    }
    Ok(())
}

async fn one(part: &str) -> Result<()> {
    match part {
        "noop" => noop::run().await,
        "idle" => idle::run().await,
        "quota" => quota::run().await,
        "tokens" => tokens::run().await,
        "parked" => parked::run().await,
        "fair" => fair::run().await,
        "recovery" => recovery::run().await,
        "crash-table" => crash_table::run().await,
        other => bail!("BENCH={other}: the parts are {}, crash-table", PARTS.join(", ")),
    }
}
