//! One account floods, another sends one job: how long until the second one's first call.
//!
//! The flood is in the broker, behind it the one job; then the workers start. Every job of the flood is taken, finds no
//! permit and is parked, so the one job's turn comes when the backlog in front of it is parked. The flood's product names
//! are its own, the rate is the overlay's 20 calls a second, and refused tickets park for up to 15 minutes, as they do
//! outside the overlay: with its 16 s they would all be back before the last one was parked for the first time. Then the
//! flood goes to the bulk lane, and the one job comes while the workers are at it. `FLOOD`, `FAIR_WORKERS`.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use lapin::BasicProperties;
use longshore::{
    clock,
    domain::step::Kind,
    rabbitmq::{Lane, Names},
    sandbox::Sandbox,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    bed::{self, Bed, PREFIX},
    figures::{number, say, verdict},
};

const GOAL: f64 = 60.0;
const BULK_GOAL: f64 = 5.0;
/// What the one job's call may come behind the parking of the backlog.
const BEHIND: f64 = 5.0;
/// Workers are at the flood for so long before the one job comes.
const UNDER_WAY: Duration = Duration::from_secs(10);
/// No run may take longer.
const RUN: Duration = Duration::from_mins(25);

pub(crate) async fn run() -> Result<()> {
    let (flood, workers) = (number("FLOOD", 100_000), number("FAIR_WORKERS", 2));
    say(&format!("{flood} jobs of one account, 1 of another; {workers} workers, concurrency 32"));
    interactive(flood, workers).await?;
    bulk(flood, workers).await
}

struct Fair {
    bed: Bed,
    sandbox: Sandbox,
    files: Vec<std::path::PathBuf>,
}

impl Fair {
    async fn new() -> Result<Self> {
        let bed = Bed::new().await?;
        let sandbox = bed::sandbox(&bed.path(""), &["flood", "single"]).await?;
        let more = "[worker]\nconcurrency = 32\n[quota]\npark_most = \"15m\"\n";
        let files = bed.configuration(&sandbox, more)?;
        Ok(Self { bed, sandbox, files })
    }

    async fn send(&self, account: &str, jobs: std::ops::Range<u64>, bulk: bool) -> Result<()> {
        let user = BasicProperties::default().with_user_id("guest".into());
        let messages = jobs.map(|number| {
            let product = json!({ "productName": format!("{account} {number}"), "testHarness": "attestation",
                "deviceType": "internalExternal", "requestedSignatures": ["WINDOWS_v100_X64_GE_FULL"] });
            let job = json!({ "id": format!("{account}-{number}"), "kind": "submission", "account": account,
                "bulk": bulk, "spec": { "product": { "create": product } } });
            (user.clone(), job.to_string().into_bytes())
        });
        let key = if bulk { "submission.bulk" } else { "submission" };
        self.bed.fill((&Names::new(PREFIX).jobs(), key), messages).await
    }

    /// Waits for the first call that the account at this place makes to the API; seconds from `begun` to it.
    async fn first_call(&self, place: usize, begun: jiff::Timestamp) -> Result<f64> {
        let (client, start) = (bed::client_id(place), clock::monotonic());
        let path = format!("/calls/by_client/{client}/total");
        while self.sandbox.verdict().pointer(&path).and_then(Value::as_u64).unwrap_or_default() == 0 {
            if start.elapsed() > RUN {
                bail!("no call came in {} s: {}", RUN.as_secs(), self.bed.log());
            }
            sleep(Duration::from_millis(100)).await;
        }
        let journal = self.sandbox.journal();
        let of = |entry: &&Value| {
            let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
            text("client_id") == client && !text("operation").starts_with("getToken")
        };
        let first = journal.as_array().into_iter().flatten().find(of).and_then(|entry| entry.get("at")?.as_str());
        let at: jiff::Timestamp = first.context("no call in the journal")?.parse()?;
        Ok(at.duration_since(begun).as_secs_f64())
    }

    /// Waits until nothing waits in this lane; seconds from `begun`.
    async fn empty(&self, lane: Lane, begun: jiff::Timestamp) -> Result<f64> {
        let (queue, start) = (Names::new(PREFIX).lane(Kind::Submission, lane), clock::monotonic());
        while self.bed.depth(&queue).await? > 0 {
            if start.elapsed() > RUN {
                bail!("the backlog was not parked in {} s: {}", RUN.as_secs(), self.bed.log());
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(clock::now().duration_since(begun).as_secs_f64())
    }
}

async fn interactive(flood: u64, workers: u64) -> Result<()> {
    let fair = Fair::new().await?;
    fair.send("flood", 0..flood, false).await?;
    fair.send("single", 0..1, false).await?;
    let begun = clock::now();
    let at_work = (0..workers).map(|_| fair.bed.worker(&fair.files, &[])).collect::<Result<Vec<_>>>()?;
    let (parked, called) =
        futures_util::future::try_join(fair.empty(Lane::Intake, begun), fair.first_call(1, begun)).await?;
    say(&format!(
        "interactive: the backlog is parked in {parked:.1} s; the other account's first call after {called:.1} s"
    ));
    let is_kept = called <= parked + BEHIND;
    say(&format!(
        "  first call ≤ parked + {BEHIND:.0} s: {};   goal {GOAL:.0} s: {}",
        verdict(is_kept),
        verdict(called <= GOAL)
    ));
    drop(at_work);
    fair.sandbox.stop().await;
    Ok(())
}

async fn bulk(flood: u64, workers: u64) -> Result<()> {
    let fair = Fair::new().await?;
    fair.send("flood", 0..flood, true).await?;
    let at_work = (0..workers).map(|_| fair.bed.worker(&fair.files, &[])).collect::<Result<Vec<_>>>()?;
    fair.bed.consumed(&Names::new(PREFIX).lane(Kind::Submission, Lane::Bulk)).await?;
    sleep(UNDER_WAY).await;
    let waiting = fair.bed.depth(&Names::new(PREFIX).lane(Kind::Submission, Lane::Bulk)).await?;
    let begun = clock::now();
    fair.send("single", 0..1, false).await?;
    let called = fair.first_call(1, begun).await?;
    say(&format!(
        "bulk: with {waiting} of the flood still on the bulk lane the other account's first call comes after {called:.2} s   goal {BULK_GOAL:.0} s: {}",
        verdict(called <= BULK_GOAL)
    ));
    drop(at_work);
    fair.sandbox.stop().await;
    Ok(())
}
