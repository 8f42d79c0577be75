//! A whole fleet in one folder: private broker and memory, a sandbox, worker processes of the real program behind a proxy of our
//! own, jobs, and the verdict at the end.
//!
//! A test target joins by `#[path = "../arena/mod.rs"] mod arena;` and brings `servers` and `run_folder` at its root. Nothing here
//! knows of faults; whoever includes it strikes.

mod configuration;
mod heard;
mod jobs;
mod left;
mod memory;
mod proxy;
mod verdict;
mod workers;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use longshore::{
    clock,
    rabbitmq::Names,
    sandbox::{Fault, Sandbox},
};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

use crate::{run_folder, servers::RabbitMq};

pub(crate) use self::{
    heard::Heard,
    jobs::Driver,
    memory::Memory,
    proxy::Proxy,
    verdict::Verdict,
    workers::{Workers, program},
};

/// Younger queues do not survive a SIGKILL of a single 3.10.8 node.
const GROWN: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The folder below the run's.
    pub(crate) name: String,
    pub(crate) seed: u64,
    pub(crate) accounts: Vec<Account>,
    /// Tickets at a time in one worker.
    pub(crate) concurrency: u32,
    pub(crate) lease: Duration,
    pub(crate) list_lag: Duration,
    /// The memory behind Sentinel, with one replica.
    pub(crate) has_sentinel: bool,
    /// More of the configuration.
    pub(crate) more: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "arena".to_owned(),
            seed: 1,
            accounts: [("marked-1", true), ("marked-2", true), ("plain-1", false), ("plain-2", false)]
                .map(|(name, is_marked)| Account { name: name.to_owned(), is_marked })
                .to_vec(),
            concurrency: 4,
            lease: Duration::from_secs(9),
            list_lag: Duration::from_millis(300),
            has_sentinel: false,
            more: String::new(),
        }
    }
}

/// One account.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) name: String,
    /// Do its products carry markers?
    pub(crate) is_marked: bool,
}

/// A broker and when its queues were declared: many arenas may follow each other on it.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) server: RabbitMq,
    declared: Option<Instant>,
}

impl Broker {
    pub(crate) fn start(folder: &Path) -> Self {
        Self { server: tokio::task::block_in_place(|| RabbitMq::start(folder)), declared: None }
    }

    /// Waits until its queues are old enough to be killed.
    pub(crate) async fn grown(&self) {
        let Some(declared) = self.declared else { return };
        tokio::time::sleep_until((declared + GROWN).into()).await;
    }
}

/// The arena.
#[derive(Debug)]
pub(crate) struct Arena {
    pub(crate) root: PathBuf,
    pub(crate) options: Options,
    pub(crate) sandbox: Sandbox,
    pub(crate) broker: Broker,
    pub(crate) memory: Memory,
    pub(crate) proxy: Proxy,
    pub(crate) workers: Workers,
    pub(crate) heard: Heard,
    pub(crate) accounts: Vec<Account>,
    pub(crate) jobs: Vec<Arc<Driver>>,
    pub(crate) names: Names,
    /// Configuration files of whoever speaks to the broker itself, past the proxy.
    direct: Vec<PathBuf>,
}

impl Arena {
    /// Starts everything but workers.
    pub(crate) async fn start(mut broker: Broker, options: Options) -> Result<Self> {
        let root = run_folder::folder(&options.name)?;
        let accounts = options.accounts.clone();
        let sandbox = Sandbox::start(configuration::sandbox(&root, &options, &accounts)?).await?;
        let memory = tokio::task::block_in_place(|| Memory::start(&root.join("memory"), options.has_sentinel));
        let proxy = Proxy::start(broker.server.port).await?;
        let files = configuration::write(&root, &options, (&sandbox, &memory, &accounts), (&broker.server, &proxy))?;
        let names = Names::new(configuration::PREFIX);
        let direct = files.direct;
        if broker.declared.is_none() {
            done(&direct, &["topology", "declare"]).await?;
            broker.declared = Some(clock::monotonic());
        } else {
            done(&direct, &["topology", "born", "--clean"]).await?;
        }
        let heard = Heard::listen(&broker.server.url(), &names).await?;
        let workers = Workers::new(files.workers, root.join("logs"));
        let jobs = Vec::new();
        Ok(Self { root, options, sandbox, broker, memory, proxy, workers, heard, accounts, jobs, names, direct })
    }

    /// Makes so many jobs more, over all accounts in turn. They are not handed in yet.
    pub(crate) fn make_jobs(&mut self, count: usize) -> Result<Vec<usize>> {
        let first = self.jobs.len();
        for number in first..first + count {
            let account = self.accounts.get(number % self.accounts.len()).context("there is no account")?;
            self.jobs.push(Arc::new(Driver::build(number, account, &self.options.name, &self.root)?));
        }
        Ok((first..first + count).collect())
    }

    /// Hands these jobs in as a producer does: again and again, until the broker has confirmed each.
    pub(crate) fn hand_in(&self, which: &[usize]) -> impl Future<Output = Result<()>> + use<> {
        let jobs: Vec<Arc<Driver>> = which.iter().filter_map(|number| self.jobs.get(*number)).cloned().collect();
        let (url, exchange) = (self.broker.server.url(), self.names.jobs());
        async move { jobs::hand_in(&url, &exchange, &jobs).await }
    }

    /// How many requests of this operation took effect at the service.
    pub(crate) fn effects(&self, operation: &str) -> usize {
        let journal = self.sandbox.journal();
        let is_one = |entry: &&Value| {
            entry.get("operation").and_then(Value::as_str) == Some(operation)
                && entry.get("effect") == Some(&Value::Bool(true))
        };
        journal.as_array().into_iter().flatten().filter(is_one).count()
    }

    /// The program with the configuration of this arena, past the proxy.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<String> {
        done(&self.direct, arguments).await
    }

    /// Sets a fault of the service for good.
    pub(crate) fn strike(&self, fault: Fault) -> Result<u64> {
        Ok(self.sandbox.fault(fault)?)
    }

    /// The service behaves again.
    pub(crate) async fn unstrike(&self) -> Result<()> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let answer = client.delete(format!("{}/_sim/faults", self.sandbox.url())).send().await?;
        ensure!(answer.status().is_success(), "the sandbox keeps its faults: {}", answer.status());
        Ok(())
    }

    /// Waits until this is so; looks while the workers live, for one that ends by itself fails the run.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        longest: Duration,
        mut is_so: impl AsyncFnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let begun = clock::monotonic();
        let mut looks = interval(Duration::from_millis(50));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if is_so(self).await? {
                return Ok(());
            }
            self.workers.are_alive()?;
            if begun.elapsed() > longest {
                bail!("not within {} s: {what}; {}", longest.as_secs(), self.stands());
            }
        }
    }

    /// Jobs of these that have no end of their last generation yet.
    pub(crate) fn unfinished(&self) -> Vec<&Driver> {
        let is_open = |job: &&Arc<Driver>| job.is_handed_in() && self.heard.last_end(&job.key).is_none();
        self.jobs.iter().filter(is_open).map(|job| &**job).collect()
    }

    fn stands(&self) -> String {
        let open: Vec<String> = self.unfinished().iter().take(8).map(|job| job.key.to_string()).collect();
        format!("{} of {} jobs have not ended: {}", self.unfinished().len(), self.jobs.len(), open.join(", "))
    }

    /// Waits until every job that was handed in has an end.
    pub(crate) async fn ended(&mut self, longest: Duration) -> Result<()> {
        self.until("every job has an end", longest, async |arena| Ok(arena.unfinished().is_empty())).await
    }

    /// Lets everything go but the broker. The folder stays.
    pub(crate) async fn close(mut self) -> Result<Broker> {
        self.workers.end().await;
        self.heard.close().await?;
        for signature in self.sandbox.handed_out() {
            run_folder::register_secret(signature.expose_secret().as_bytes())?;
        }
        self.sandbox.stop().await;
        tokio::task::block_in_place(|| drop(self.memory));
        Ok(self.broker)
    }
}

/// Runs the program to its good end, and says what it printed.
async fn done(configuration: &[PathBuf], arguments: &[&str]) -> Result<String> {
    let mut command = program(configuration);
    let ran = tokio::time::timeout(Duration::from_secs(60), command.args(arguments).output());
    let ran = ran.await.with_context(|| format!("{arguments:?} did not end"))??;
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    ensure!(ran.status.success(), "{arguments:?} ended with {}: {out}{err}", ran.status);
    Ok(out.into_owned())
}
