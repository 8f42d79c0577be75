//! A worker of the real program in the fleet with nothing to do: what it holds, and what it costs in a minute
//! (`IDLE_SECONDS`). The tables of lanes are those of all kinds; broker and memory answer.

use std::time::Duration;

use anyhow::{Context as _, Result};
use longshore::rabbitmq::Names;
use tokio::time::sleep;

use crate::{
    bed::{self, Bed, PREFIX},
    figures::{number, say, verdict},
    process,
};

const MEMORY_GOAL_MIB: f64 = 30.0;
const CPU_GOAL_PERCENT: f64 = 0.2;

pub(crate) async fn run() -> Result<()> {
    let bed = Bed::new().await?;
    let sandbox = bed::sandbox(&bed.path(""), &["bench"]).await?;
    let files = bed.configuration(&sandbox, "")?;
    let worker = bed.worker(&files, &[])?;
    let pid = worker.id().context("the worker has ended")?;
    bed.consumed(
        &Names::new(PREFIX).lane(longshore::domain::step::Kind::Submission, longshore::rabbitmq::Lane::Intake),
    )
    .await?;
    // Its canaries have come home, and it is at rest.
    sleep(Duration::from_secs(5)).await;
    let span = Duration::from_secs(number("IDLE_SECONDS", 60));
    let (before, servers) = (process::cpu(pid)?, bed.servers_cpu()?);
    sleep(span).await;
    let percent = |seconds: f64| seconds / span.as_secs_f64() * 100.0;
    let cpu = percent(process::cpu(pid)? - before);
    let (now, most) = (process::resident(pid), process::most_resident(pid));
    let [broker, memory] = bed.servers_cpu()?;
    let [broker_before, memory_before] = servers;
    say(&format!(
        "memory   {now:.1} MiB resident, {most:.1} MiB at most   goal {MEMORY_GOAL_MIB:.0} MiB: {}",
        verdict(most <= MEMORY_GOAL_MIB)
    ));
    say(&format!(
        "CPU      {cpu:.2} % over {} s   goal {CPU_GOAL_PERCENT} %: {}   (meanwhile broker {:.2} %, redis {:.2} %)",
        span.as_secs(),
        verdict(cpu <= CPU_GOAL_PERCENT),
        percent(broker - broker_before),
        percent(memory - memory_before)
    ));
    drop(worker);
    sandbox.stop().await;
    Ok(())
}
