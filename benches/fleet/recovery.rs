//! After a restart of the broker: from the first connection that a probe gets to the first job that the worker does.
//!
//! The probe knocks every 25 ms; when it gets in it hands in a job that does nothing and waits for its end, so the span
//! holds the worker's way back, a delivery, and the whole job. Every other restart is a SIGKILL, the rest are orderly.
//! `RECOVERY_RESTARTS`; `RECOVERY_PAUSE`, seconds of peace between two.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use lapin::{
    BasicProperties,
    options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use longshore::{
    clock,
    domain::step::Kind,
    rabbitmq::{Lane, Names},
};
use serde_json::json;
use tokio::{
    task::{JoinSet, block_in_place},
    time::{sleep, timeout},
};

use crate::{
    bed::{self, Bed, PREFIX},
    figures::{Figures, number, say, verdict},
};

const P95_GOAL: f64 = 2.0;
const MOST_GOAL: f64 = 10.0;
const KNOCK: Duration = Duration::from_millis(25);
/// No restart may take longer.
const RESTART: Duration = Duration::from_mins(3);

pub(crate) async fn run() -> Result<()> {
    let restarts = number("RECOVERY_RESTARTS", 50);
    let pause = Duration::from_secs(number("RECOVERY_PAUSE", 3));
    let mut bed = Bed::new().await?;
    let sandbox = bed::sandbox(&bed.path(""), &["bench"]).await?;
    let files = bed.configuration(&sandbox, "")?;
    let worker = bed.worker(&files, &[])?;
    bed.consumed(&Names::new(PREFIX).lane(Kind::Submission, Lane::Intake)).await?;
    // A queue declared a moment ago does not survive a SIGKILL of its broker.
    sleep(Duration::from_secs(5)).await;
    let url = bed.broker.url();
    let (mut killed, mut stopped) = (Figures::default(), Figures::default());
    for restart in 0..restarts {
        let is_kill = restart % 2 == 0;
        block_in_place(|| if is_kill { bed.broker.kill() } else { bed.broker.stop() });
        let mut probe = JoinSet::new();
        let knocking = url.clone();
        probe.spawn(async move { knock(&knocking, restart).await });
        block_in_place(|| bed.broker.start_again());
        let taken = timeout(RESTART, probe.join_next()).await;
        let taken = taken.with_context(|| format!("no job after restart {restart}: {}", bed.log()))?;
        let taken = taken.context("there was a probe")???;
        let how = if is_kill { "SIGKILL" } else { "stop" };
        say(&format!("restart {restart} ({how}): {taken:.2} s"));
        if is_kill {
            killed.add(taken);
        } else {
            stopped.add(taken);
        }
        sleep(pause).await;
    }
    let both: Figures = killed.all().chain(stopped.all()).collect();
    for (name, figures) in [("after SIGKILL", &killed), ("after an orderly stop", &stopped)] {
        say(&format!(
            "{name:<22} median {:.2} s, p95 {:.2} s, at most {:.2} s, {} restarts",
            figures.median(),
            figures.part(0.95),
            figures.most(),
            figures.len()
        ));
    }
    say(&format!(
        "all {} restarts: p95 {:.2} s   goal ≤ {P95_GOAL} s: {};   at most {:.2} s   goal ≤ {MOST_GOAL} s: {}",
        both.len(),
        both.part(0.95),
        verdict(both.part(0.95) <= P95_GOAL),
        both.most(),
        verdict(both.most() <= MOST_GOAL)
    ));
    drop(worker);
    sandbox.stop().await;
    Ok(())
}

/// Knocks until it gets in, hands a job in, and waits for its end; seconds from the first connection.
async fn knock(url: &str, restart: u64) -> Result<f64> {
    let mut first = None;
    loop {
        if let Ok(Ok(connection)) = timeout(Duration::from_secs(2), bed::connect(url)).await {
            let at = *first.get_or_insert_with(clock::monotonic);
            // Queues may not be ready yet: then it comes in again, and the time runs on.
            match one_job(&connection, restart).await {
                Ok(()) => return Ok(at.elapsed().as_secs_f64()),
                Err(error) if at.elapsed() > RESTART => return Err(error),
                Err(_) => {}
            }
        }
        sleep(KNOCK).await;
    }
}

async fn one_job(connection: &lapin::Connection, restart: u64) -> Result<()> {
    let (names, id) = (Names::new(PREFIX), format!("recovery-{restart}-{}", clock::uuid_v4().simple()));
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let own = channel.queue_declare("".into(), options, FieldTable::default()).await?;
    let key = format!("v1.bench.submission.completed.{id}");
    let (queue, exchange) = (own.name().clone(), names.events().as_str().into());
    channel
        .queue_bind(queue.clone(), exchange, key.as_str().into(), QueueBindOptions::default(), FieldTable::default())
        .await?;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut ends = channel.basic_consume(queue, "".into(), options, FieldTable::default()).await?;
    let job = json!({ "id": id, "kind": "submission", "account": "bench", "spec": { "product": { "id": "1" } } });
    let job = job.to_string();
    let properties = BasicProperties::default().with_delivery_mode(2).with_user_id("guest".into());
    let (exchange, options) = (names.jobs().as_str().into(), BasicPublishOptions::default());
    let sent = channel.basic_publish(exchange, "submission".into(), options, job.as_bytes(), properties);
    timeout(Duration::from_secs(10), sent.await?).await??;
    timeout(Duration::from_secs(60), ends.next()).await?.context("the consumer ended")??;
    Ok(())
}
