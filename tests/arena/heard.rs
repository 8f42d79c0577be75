//! Everything that the fleet announces, heard by a queue of our own that outlives the broker's restarts.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use lapin::{
    Channel, Connection, ConnectionProperties,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
        QueuePurgeOptions,
    },
    types::{AMQPValue, FieldTable},
};
use longshore::{
    domain::ids::{AccountName, JobId, JobKey},
    rabbitmq::Names,
};
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

/// The queue that keeps every event until we have read it.
pub(super) const QUEUE: &str = "arena.heard";

/// Ends that were announced for one generation of a job.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ending {
    /// `(source, id)` of each: more than one is an error.
    pub(crate) ids: BTreeSet<(String, String)>,
    /// How it ended, the last that was heard.
    pub(crate) name: String,
    /// Reason's class, when there is one.
    pub(crate) class: Option<String>,
    /// The step that the reason names.
    pub(crate) step: Option<String>,
    /// Things at the service that may be the job's own.
    pub(crate) candidates: Vec<String>,
    /// Where the signed packages lie.
    pub(crate) downloads: Vec<PathBuf>,
    /// Heard so often.
    pub(crate) copies: usize,
    /// Announced with two outcomes: what can happen when the memory is lost between an end and its acknowledgement.
    pub(crate) is_reworded: bool,
}

#[derive(Debug, Default)]
struct Events {
    ends: BTreeMap<JobKey, BTreeMap<u32, Ending>>,
    /// Events of one id, every copy.
    counts: BTreeMap<String, usize>,
    refused: Vec<String>,
    started: BTreeSet<JobKey>,
}

/// What was heard.
#[derive(Debug)]
pub(crate) struct Heard {
    events: Arc<Mutex<Events>>,
    url: String,
    _tasks: JoinSet<()>,
}

impl Heard {
    /// Declares the queue and listens, for as long as it lives, through all restarts of the broker.
    pub(super) async fn listen(url: &str, names: &Names) -> Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        channel.queue_declare(QUEUE.into(), QueueDeclareOptions::durable(), arguments).await?;
        let exchange = names.events();
        let (exchange, key, options) = (exchange.as_str().into(), "v1.#".into(), QueueBindOptions::default());
        channel.queue_bind(QUEUE.into(), exchange, key, options, FieldTable::default()).await?;
        channel.queue_purge(QUEUE.into(), QueuePurgeOptions::default()).await?;
        let events = Arc::new(Mutex::new(Events::default()));
        let mut tasks = JoinSet::new();
        let (into, at) = (Arc::clone(&events), url.to_owned());
        tasks.spawn(async move {
            let mut tries = interval(Duration::from_millis(200));
            tries.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tries.tick().await;
                // Whatever ends it, the next try goes on where the queue stands.
                drop(consume(&at, &into).await);
            }
        });
        Ok(Self { events, url: url.to_owned(), _tasks: tasks })
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        lock(&self.events)
    }

    /// The ends of a job by generation.
    pub(crate) fn ends(&self, job: &JobKey) -> BTreeMap<u32, Ending> {
        self.events().ends.get(job).cloned().unwrap_or_default()
    }

    /// The end of its last generation that has one.
    pub(crate) fn last_end(&self, job: &JobKey) -> Option<(u32, Ending)> {
        self.ends(job).pop_last()
    }

    /// Has a worker begun with it?
    pub(crate) fn has_started(&self, job: &JobKey) -> bool {
        self.events().started.contains(job)
    }

    /// Different events, and all copies of them.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let events = self.events();
        (events.counts.len(), events.counts.values().sum())
    }

    /// Messages that were refused.
    pub(crate) fn refused(&self) -> Vec<String> {
        self.events().refused.clone()
    }

    /// Deletes the queue.
    pub(super) async fn close(self) -> Result<()> {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default()).await?;
        Ok(())
    }
}

fn lock(events: &Mutex<Events>) -> MutexGuard<'_, Events> {
    events.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn consume(url: &str, into: &Mutex<Events>) -> Result<()> {
    let connecting = Connection::connect(url, ConnectionProperties::default());
    let connection = tokio::time::timeout(Duration::from_secs(5), connecting).await??;
    let channel: Channel = connection.create_channel().await?;
    let options = BasicConsumeOptions::default();
    let mut consumer = channel.basic_consume(QUEUE.into(), "".into(), options, FieldTable::default()).await?;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        read(&delivery, into)?;
        delivery.acker.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

fn header(delivery: &Delivery, name: &str) -> Option<String> {
    let AMQPValue::LongString(text) = delivery.properties.headers().as_ref()?.inner().get(name)? else { return None };
    Some(text.to_string())
}

fn read(delivery: &Delivery, into: &Mutex<Events>) -> Result<()> {
    let text = |name: &str| header(delivery, name).with_context(|| format!("an event without {name}"));
    let (kind, id, source) = (text("ce-type")?, text("ce-id")?, text("ce-source")?);
    let name = kind.trim_start_matches("dev.longshore.job.").trim_end_matches(".v1").to_owned();
    let mut events = lock(into);
    *events.counts.entry(format!("{source} {id}")).or_default() += 1;
    if name == "refused" {
        events.refused.push(String::from_utf8_lossy(&delivery.data).into_owned());
    }
    let account = AccountName::parse(source.trim_start_matches("/accounts/"))?;
    let subject = text("ce-subject")?;
    if name == "started" {
        events.started.insert(JobKey { account: account.clone(), id: JobId::parse(&subject)? });
    }
    if !["completed", "failed", "cancelled", "timed-out", "dead-lettered"].contains(&name.as_str()) {
        return Ok(());
    }
    let job = JobKey { account, id: JobId::parse(&subject)? };
    let sequence = text("ce-sequence")?;
    let generation: u32 = sequence.split('.').next().unwrap_or_default().parse()?;
    let data: Value = serde_json::from_slice(&delivery.data)?;
    let reason = data.get("reason");
    let word = |name: &str| reason.and_then(|reason| reason.get(name)).and_then(Value::as_str).map(str::to_owned);
    let candidates = reason.and_then(|reason| reason.get("candidates")).and_then(Value::as_array);
    let ids = candidates.into_iter().flatten().filter_map(|one| one.get("id").and_then(Value::as_str));
    let ending = events.ends.entry(job).or_default().entry(generation).or_default();
    ending.is_reworded |= ending.copies > 0 && ending.name != name;
    ending.ids.insert((source, id));
    ending.name = name;
    ending.class = word("class");
    ending.step = word("step");
    ending.candidates = ids.map(str::to_owned).collect();
    let files = data.get("downloads").and_then(Value::as_array).into_iter().flatten();
    ending.downloads = files.filter_map(|file| file.get("path")?.as_str().map(PathBuf::from)).collect();
    ending.copies += 1;
    Ok(())
}
