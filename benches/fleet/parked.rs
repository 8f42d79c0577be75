//! Many parked tickets: what each costs the broker, and how late they come when they are due evenly over a minute.
//!
//! The tickets are published by the fleet's own code to the delays, and worked by the real program: each does nothing and
//! ends. Lateness is the instant of a job's end, by the memory's clock, behind the ticket's `due`: waking, further hops,
//! the lane, the claim. Twice: with waits of all lengths (a ticket wakes at the largest power of two that fits, and parks
//! the rest: several hops), and with waits of 64 s, as polls have them (one hop). `PARKED`, `PARKED_WORKERS`.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lapin::{
    options::{BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use longshore::{
    clock,
    domain::{job::Job, step::Kind, ticket::Ticket, time::Moment},
    engine::settle::Broker as _,
    rabbitmq::{self, Lane, Names, Rabbit},
};
use serde_json::json;
use tokio::{process::Child, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    bed::{self, Bed, PREFIX},
    figures::{Figures, number, say, verdict},
    process,
};

const EVENTS: &str = "bench.events";
const GOAL: f64 = 1.5;
/// Over which they are due.
const SPAN: Duration = Duration::from_secs(60);
/// A wait of one hop.
const ONE_HOP: Duration = Duration::from_secs(64);
/// Publishes under way at once.
const WINDOW: usize = 500;
/// No run may take longer after the last one is due.
const LATEST: Duration = Duration::from_mins(10);

pub(crate) async fn run() -> Result<()> {
    let (tickets, workers) = (number("PARKED", 100_000), number("PARKED_WORKERS", 1));
    let bed = Bed::new().await?;
    bed.queue(EVENTS, true).await?;
    bed.bind(&Names::new(PREFIX).events(), EVENTS, "v1.*.*.completed.#").await?;
    let sandbox = bed::sandbox(&bed.path(""), &["bench"]).await?;
    let files = bed.configuration(&sandbox, "[worker]\nconcurrency = 64\n[topology]\nkinds = [\"submission\"]\n")?;
    let mut at_work = Vec::new();
    for _ in 0..workers {
        at_work.push(bed.worker(&files, &[])?);
    }
    bed.consumed(&Names::new(PREFIX).lane(Kind::Submission, Lane::Return)).await?;
    sleep(Duration::from_secs(3)).await;
    say(&format!("{tickets} tickets, {workers} worker"));
    // As fast as they are accepted, and due long enough after the last one was.
    let lead = Duration::from_secs(20).saturating_add(Duration::from_micros(tickets.saturating_mul(400)));
    one(&bed, &at_work, ("waits of all lengths", tickets), Some(lead)).await?;
    bed.purge(EVENTS).await?;
    one(&bed, &at_work, ("waits of 64 s, one hop", tickets), None).await?;
    drop(at_work);
    sandbox.stop().await;
    Ok(())
}

/// With a lead, all are parked as fast as they can be and due evenly after it; without, they are parked evenly and wait
/// 64 s each.
async fn one(bed: &Bed, workers: &[Child], (name, count): (&str, u64), lead: Option<Duration>) -> Result<()> {
    let pids: Vec<u32> = workers.iter().filter_map(Child::id).collect();
    let held = || pids.iter().map(|pid| process::resident(*pid)).sum::<f64>();
    let [broker, _] = bed.pids()?;
    let (broker_before, before) = (process::resident(broker), held());
    let begun = clock::moment();
    let first = begun.after(lead.unwrap_or(ONE_HOP));
    let parked_in = park(bed, count, begun, first, lead.is_some()).await?;
    let now = clock::moment();
    let (queues, messages) = in_the_delays(bed)?;
    let broker_after = process::resident(broker);
    say(&format!("{name}: parked in {parked_in:.1} s, {messages} wait when the last is confirmed"));
    if lead.is_some() {
        ensure!(now < first, "parking took longer than the lead; PARKED is too much for this machine");
    }
    #[expect(clippy::cast_precision_loss, reason = "counts")]
    let each = |bytes: f64| bytes / messages.max(1) as f64;
    say(&format!(
        "  broker: {:.0} bytes a ticket by its own count of the queues, {:.0} by its process ({broker_before:.0} to {broker_after:.0} MiB)",
        each(queues),
        each((broker_after - broker_before) * f64::from(1 << 20))
    ));
    let end = first.after(SPAN);
    let mut most = held();
    let deadline = end.after(LATEST);
    let mut lateness = Figures::default();
    let mut late = Vec::new();
    loop {
        most = most.max(held());
        let seen = bed.depth(EVENTS).await?;
        if seen >= count {
            break;
        }
        if clock::moment() > deadline {
            bail!("{seen} of {count} came in time: {}", bed.log());
        }
        sleep(Duration::from_millis(500)).await;
    }
    late_of(bed, count, &mut late).await?;
    for late in late {
        lateness.push(late);
    }
    lateness.sort();
    let after = held();
    say(&format!(
        "  late: p50 {:.3} s, p95 {:.3} s, p99 {:.3} s, at most {:.3} s   goal p99 ≤ {GOAL} s: {}",
        lateness.median(),
        lateness.part(0.95),
        lateness.part(0.99),
        lateness.most(),
        verdict(lateness.part(0.99) <= GOAL)
    ));
    say(&format!(
        "  never early: {}; connections lost on the way: {}",
        verdict(lateness.least() >= 0.0),
        bed.reconnects()
    ));
    say(&format!("  worker memory: {before:.1} MiB before, {most:.1} MiB at most, {after:.1} MiB after"));
    Ok(())
}

/// Publishes them; seconds until the last was confirmed.
async fn park(bed: &Bed, count: u64, begun: Moment, first: Moment, at_once: bool) -> Result<f64> {
    let options =
        rabbitmq::Options { urls: vec![bed.broker.url().into()], prefix: PREFIX.to_owned(), ..Default::default() };
    let (rabbit, stop) = (Rabbit::new(options), CancellationToken::new());
    let publishing = async {
        rabbit.ready().await;
        let from = clock::monotonic();
        let after = |number: u64| SPAN.mul_f64(ratio(number, count));
        let published = stream::iter(0..count).map(|number| {
            let rabbit = &rabbit;
            async move {
                if !at_once {
                    sleep(begun.after(after(number)).since(clock::moment())).await;
                }
                rabbit.publish(&ticket(begun, number, first.after(after(number)))?).await?;
                anyhow::Ok(())
            }
        });
        let done = published.buffered(WINDOW).try_for_each(|()| std::future::ready(Ok(()))).await;
        stop.cancel();
        done.map(|()| from.elapsed().as_secs_f64())
    };
    futures_util::future::join(publishing, rabbit.supervise(&stop)).await.0
}

#[expect(clippy::cast_precision_loss, reason = "a part of a count")]
fn ratio(number: u64, of: u64) -> f64 {
    number as f64 / of as f64
}

fn ticket(begun: Moment, number: u64, due: Moment) -> Result<Ticket> {
    let id = format!("parked-{}-{number}-{}", begun.as_millis(), due.as_millis());
    let job = json!({ "id": id, "kind": "submission", "account": "bench", "spec": { "product": { "id": "1" } } });
    let job = Job::decode(job.to_string().as_bytes(), || None).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let hash = job.content_hash();
    Ok(Ticket::new(job, hash, Some("guest".to_owned()), begun).next_try(due))
}

/// Bytes that the delays' queues hold by the broker's own count, and their messages.
fn in_the_delays(bed: &Bed) -> Result<(f64, u64)> {
    let (is_done, said) = bed.broker.control(&["list_queues", "--silent", "name", "messages", "memory"]);
    ensure!(is_done, "the queues cannot be listed: {said}");
    let (mut bytes, mut messages) = (0.0, 0);
    for line in said.lines().filter(|line| line.contains(".delay.")) {
        let mut words = line.split_whitespace().skip(1);
        messages += words.next().context("no messages")?.parse::<u64>()?;
        bytes += words.next().context("no memory")?.parse::<f64>()?;
    }
    Ok((bytes, messages))
}

/// Reads the events of the ends: seconds behind the `due` that each job's id tells.
async fn late_of(bed: &Bed, count: u64, late: &mut Vec<f64>) -> Result<()> {
    let channel = bed.looker.create_channel().await?;
    channel.basic_qos(1_000, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut events = channel.basic_consume(EVENTS.into(), "".into(), options, FieldTable::default()).await?;
    let mut seen = BTreeMap::new();
    while u64::try_from(seen.len())? < count {
        let event =
            tokio::time::timeout(Duration::from_secs(30), events.next()).await.context("an event is missing")?;
        let event = event.context("the consumer ended")??;
        let header = |name: &str| -> Option<String> {
            let value = event.properties.headers().as_ref()?.inner().get(name)?;
            value.as_long_string().map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned())
        };
        let (job, at) = (header("ce-subject").context("no subject")?, header("ce-time").context("no time")?);
        let due: i64 = job.rsplit('-').next().context("no due")?.parse()?;
        let at = Moment::from(at.parse::<jiff::Timestamp>()?).as_millis();
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of minutes")]
        seen.entry(job).or_insert((at - due) as f64 / 1_000.0);
    }
    channel.close(200, "read".into()).await?;
    late.extend(seen.into_values());
    Ok(())
}
