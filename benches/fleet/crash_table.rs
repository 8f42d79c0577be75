//! `make crash-table`: what is left of jobs whose workers are killed, for this program and for Celery.
//!
//! Every job has one effect, the same call of the same simulated service: a submission made for a product of its own. The
//! service counts them, and knows nothing of whoever asks. Then a confirmed event, then the acknowledgement. Two workers
//! work on the jobs; ten times in the course of it one of them is killed with SIGKILL, processes of its pool included,
//! and another is started. A run is over when every job has announced its end, or when nothing has happened for
//! 90 s, longer than any lease or wait of either program.
//!
//! Lost: no effect. Doubled: more than one. Unfinished: an effect, and no event. Time to recover: from a kill to the
//! event of the slowest job whose effect had taken place before it. `JOBS`, `KILLS`, `ONLY` (ours, default, late).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lapin::{
    BasicProperties, Consumer,
    options::{BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use longshore::{
    clock,
    domain::ids::{AccountName, JobId, JobKey},
    rabbitmq::Names,
    sandbox::{Options, Sandbox},
};
use serde_json::{Value, json};
use tokio::{process::Child, time::timeout};

use crate::{
    bed::{self, Bed, PREFIX},
    celery::{self, Celery},
    figures::{Figures, number, say},
};

const EVENTS: &str = "bench.ends";
/// Nothing has happened for so long: nothing will.
const SILENCE: Duration = Duration::from_secs(90);
/// No run may take longer.
const RUN: Duration = Duration::from_mins(30);
const WORKERS: usize = 2;
/// Given out ahead to a worker of either program.
const AHEAD: u16 = 8;

/// The program of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    Ours,
    CeleryDefault,
    CeleryLate,
}

impl Program {
    const fn name(self) -> &'static str {
        match self {
            Self::Ours => "longshore",
            Self::CeleryDefault => "Celery 5, default",
            Self::CeleryLate => "Celery 5, acks_late",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::CeleryDefault => "default",
            Self::CeleryLate => "late",
        }
    }
}

/// A worker of one of them.
enum Worker {
    Ours(Child),
    Celery(Celery),
}

impl Worker {
    async fn kill(&mut self) -> Result<()> {
        match self {
            Self::Ours(child) => Ok(child.kill().await?),
            Self::Celery(celery) => celery.kill().await,
        }
    }
}

/// What became of the jobs.
struct Outcome {
    lost: usize,
    doubled: usize,
    unfinished: usize,
    recovered: Figures,
    seconds: f64,
}

pub(crate) async fn run() -> Result<()> {
    let (jobs, kills) = (number("JOBS", 10_000), number("KILLS", 10));
    let only = std::env::var("ONLY").unwrap_or_default();
    say(&format!("{jobs} jobs, {kills} kills, {WORKERS} workers, {AHEAD} given out ahead to each"));
    say("program                lost  doubled  unfinished   time to recover                       whole run");
    for program in [Program::Ours, Program::CeleryDefault, Program::CeleryLate] {
        if !only.is_empty() && only != program.word() {
            continue;
        }
        if program != Program::Ours && celery::installed().is_none() {
            say(&format!("{:<22} not installed (make crash-table installs it)", program.name()));
            continue;
        }
        let outcome = one(program, jobs, kills).await.with_context(|| program.name())?;
        let recovered = if outcome.recovered.len() == 0 {
            "no job was between its two".to_owned()
        } else {
            format!(
                "median {:.1} s, at most {:.1} s ({})",
                outcome.recovered.median(),
                outcome.recovered.most(),
                outcome.recovered.len()
            )
        };
        say(&format!(
            "{:<22} {:>4}  {:>7}  {:>10}   {recovered:<36}  {:.0} s",
            program.name(),
            outcome.lost,
            outcome.doubled,
            outcome.unfinished,
            outcome.seconds
        ));
    }
    Ok(())
}

struct Table {
    bed: Bed,
    sandbox: Sandbox,
    files: Vec<std::path::PathBuf>,
    program: Program,
    token: String,
}

impl Table {
    fn worker(&self) -> Result<Worker> {
        if self.program == Program::Ours {
            return self.bed.worker(&self.files, &[]).map(Worker::Ours);
        }
        let address = self.sandbox.address().to_string();
        let told = celery::Told {
            acks_late: self.program == Program::CeleryLate,
            prefetch: AHEAD / celery::POOL,
            event: 512,
            effects: Some((address, self.token.clone())),
        };
        let program = celery::installed().context("Celery is not installed")?;
        Celery::start(&self.bed, &program, &told).map(Worker::Celery)
    }

    /// Hands all jobs in; each one's correlation id by the name that its event bears.
    async fn fill(&self, products: &[u64]) -> Result<BTreeMap<String, String>> {
        let mut ids = BTreeMap::new();
        let mut messages = Vec::new();
        for (number, product) in products.iter().enumerate() {
            if self.program == Program::Ours {
                let id = format!("crash-{number}");
                let key = JobKey { account: AccountName::parse("bench")?, id: JobId::parse(&id)? };
                ids.insert(id.clone(), key.correlation_id().to_string());
                let job = json!({ "id": id, "kind": "submission", "account": "bench", "spec": {
                    "product": { "id": product.to_string() }, "commit": false, "wait": "none",
                    "submission": { "create": { "name": format!("crash {number}"), "type": "derived" } } } });
                let user = BasicProperties::default().with_user_id("guest".into());
                messages.push((user, job.to_string().into_bytes()));
            } else {
                let id = clock::uuid_v4().to_string();
                ids.insert(id.clone(), id.clone());
                messages.push(celery::message(&id, Some(*product)));
            }
        }
        if self.program == Program::Ours {
            self.bed.fill((&Names::new(PREFIX).jobs(), "submission"), messages).await?;
        } else {
            self.bed.queue(celery::QUEUE, false).await?;
            self.bed.bind("amq.topic", celery::QUEUE, "celery").await?;
            self.bed.fill(("amq.topic", "celery"), messages).await?;
        }
        Ok(ids)
    }

    async fn events(&self) -> Result<Consumer> {
        self.bed.queue(EVENTS, true).await?;
        self.bed.bind(&Names::new(PREFIX).events(), EVENTS, "v1.*.*.completed.#").await?;
        let channel = self.bed.looker.create_channel().await?;
        channel.basic_qos(1_000, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        Ok(channel.basic_consume(EVENTS.into(), "".into(), options, FieldTable::default()).await?)
    }
}

async fn one(program: Program, jobs: u64, kills: u64) -> Result<Outcome> {
    let bed = Bed::new().await?;
    let options = Options { derived_needs_signed: false, ..Options::default() };
    let sandbox = bed::sandbox_with(&bed.path(""), &["bench"], options).await?;
    // The rate is not what is compared: as fast as both can.
    let more = format!("[worker]\nconcurrency = {AHEAD}\n[limits.hardware]\ncalls_per_minute = 60000\n");
    let files = bed.configuration(&sandbox, &more)?;
    let token = bed::token(&bed, &sandbox, ("bench", 0)).await?;
    let products = products(&sandbox, &token, jobs).await?;
    let table = Table { bed, sandbox, files, program, token };
    let ids = table.fill(&products).await?;
    let mut events = table.events().await?;
    let begun = clock::monotonic();
    let mut workers = (0..WORKERS).map(|_| table.worker()).collect::<Result<Vec<_>>>()?;
    let (mut ended, mut killed) = (BTreeMap::<String, i64>::new(), Vec::new());
    while u64::try_from(ended.len())? < jobs {
        ensure!(begun.elapsed() < RUN, "the run takes longer than {} minutes", RUN.as_secs() / 60);
        let Ok(event) = timeout(SILENCE, events.next()).await else { break };
        let event = event.context("the consumer ended")??;
        let name = name_of(&event).context("an event without a name")?;
        ended.entry(ids.get(&name).context("an event of another job")?.clone()).or_insert(clock::moment().as_millis());
        let done = u64::try_from(killed.len())?;
        // Evenly over the jobs, whatever the program's speed.
        if done < kills && u64::try_from(ended.len())? >= jobs * (done + 1) / (kills + 1) {
            let place = killed.len() % WORKERS;
            let worker = workers.get_mut(place).context("no such worker")?;
            killed.push(clock::moment().as_millis());
            worker.kill().await?;
            *worker = table.worker()?;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    if killed.len() < usize::try_from(kills)? {
        let celery = fs::read_to_string(table.bed.path("celery.log")).unwrap_or_default();
        bail!("{} of {jobs} jobs ended, and then nothing: {}{celery}", ended.len(), table.bed.log());
    }
    for worker in &mut workers {
        worker.kill().await?;
    }
    let outcome = judge(&table.sandbox, &ids, &ended, &killed, seconds)?;
    table.sandbox.stop().await;
    Ok(outcome)
}

fn judge(
    sandbox: &Sandbox,
    ids: &BTreeMap<String, String>,
    ended: &BTreeMap<String, i64>,
    killed: &[i64],
    seconds: f64,
) -> Result<Outcome> {
    let verdict = sandbox.verdict();
    let effects = verdict.get("by_correlation").and_then(Value::as_object).context("no effects")?;
    let count =
        |id: &str| effects.get(id).and_then(|of| of.get("submissions")).and_then(Value::as_u64).unwrap_or_default();
    let all: BTreeSet<&str> = ids.values().map(String::as_str).collect();
    let mut first_effect = BTreeMap::<String, i64>::new();
    for entry in sandbox.journal().as_array().into_iter().flatten() {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let is_effect = entry.get("effect").and_then(Value::as_bool) == Some(true);
        if is_effect && all.contains(text("correlation_id")) {
            let at = entry.get("at_ms").and_then(Value::as_i64).context("no instant")?;
            first_effect.entry(text("correlation_id").to_owned()).or_insert(at);
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of minutes")]
    let recovered = killed.iter().filter_map(|kill| {
        let between = first_effect.iter().filter_map(|(id, effect)| {
            let end = ended.get(id)?;
            (effect <= kill && end > kill).then_some(end - kill)
        });
        between.max().map(|millis| millis as f64 / 1_000.0)
    });
    Ok(Outcome {
        lost: all.iter().filter(|id| count(id) == 0).count(),
        doubled: all.iter().filter(|id| count(id) > 1).count(),
        unfinished: all.iter().filter(|id| count(id) > 0 && !ended.contains_key(**id)).count(),
        recovered: recovered.collect(),
        seconds,
    })
}

/// The job that an event is of: ours bear it as their subject, Celery's task as its message id.
fn name_of(event: &lapin::message::Delivery) -> Option<String> {
    let headers = event.properties.headers().as_ref();
    if let Some(subject) = headers.and_then(|headers| headers.inner().get("ce-subject")) {
        return subject.as_long_string().map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned());
    }
    event.properties.message_id().as_ref().map(ToString::to_string)
}

/// A product with its initial submission for every job: what is made for it is a derived one.
async fn products(sandbox: &Sandbox, token: &str, count: u64) -> Result<Vec<u64>> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let base = format!("{}/v2.0/my/hardware/products", sandbox.url());
    let post = |url: String, body: Value| {
        let request =
            http.post(url).bearer_auth(token).header("content-type", "application/json").body(body.to_string());
        async move {
            let answer: Value = serde_json::from_str(&request.send().await?.error_for_status()?.text().await?)?;
            answer.get("id").and_then(Value::as_u64).context("no id")
        }
    };
    let made = stream::iter(0..count).map(|number| {
        let (post, base) = (&post, &base);
        async move {
            let product = post(
                base.clone(),
                json!({ "productName": format!("Crash {number}"), "testHarness": "HLK",
                    "deviceType": "internalExternal", "requestedSignatures": ["WINDOWS_v100_X64_GE_FULL"],
                    "announcementDate": "2026-11-21T00:00:00", "isTestSign": false, "isFlightSign": false,
                    "deviceMetadataIds": [], "firmwareVersion": "0", "marketingNames": [], "selectedProductTypes": {},
                    "additionalAttributes": {} }),
            )
            .await?;
            post(format!("{base}/{product}/submissions"), json!({ "name": "first", "type": "initial" })).await?;
            anyhow::Ok(product)
        }
    });
    made.buffer_unordered(32).try_collect().await
}
