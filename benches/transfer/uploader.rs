//! The uploading process: one call of the transfer module, and what it cost.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result, bail};
use longshore::{
    clock,
    domain::{failure::Failure, service::SignedUrl},
    http,
    transfer::{Hooks, LocalPackage, MAX_PACKAGE, Settings, upload},
};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

const VARIABLE: &str = "LONGSHORE_BENCH_PART";

/// What one process is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) package: PathBuf,
    pub(crate) url: String,
    /// Stop at the next block border once so many bytes are there.
    pub(crate) stop_at: u64,
}

impl Part {
    /// What this process was told, if it is one of the uploading ones.
    pub(crate) fn of_this_process() -> Result<Option<Self>> {
        std::env::var(VARIABLE).ok().map(|told| serde_json::from_str(&told).context("its part")).transpose()
    }

    pub(crate) fn tell(&self, command: &mut Command) -> Result<()> {
        command.env(VARIABLE, serde_json::to_string(self)?);
        Ok(())
    }
}

/// What one process did.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sent {
    /// Bytes that the service has acknowledged to this process.
    pub(crate) bytes: u64,
    pub(crate) is_done: bool,
    /// Hashing of the file included, as a worker does it.
    pub(crate) seconds: f64,
    /// Before it looked at the file.
    pub(crate) idle_mib: f64,
    /// At most.
    pub(crate) peak_mib: f64,
}

struct Told<'a> {
    part: &'a Part,
    first: AtomicU64,
    done: AtomicU64,
}

impl Hooks for Told<'_> {
    async fn fresh_url(&self) -> Result<SignedUrl, Failure> {
        Ok(SignedUrl::new(self.part.url.clone()))
    }

    async fn may_replace(&self) -> bool {
        true
    }

    fn out_of_time(&self) -> bool {
        self.done.load(Ordering::Relaxed) >= self.part.stop_at
    }

    fn progress(&self, done: u64, _: u64) {
        // The first word of a call tells what was there before it.
        self.first.fetch_min(done, Ordering::Relaxed);
        self.done.fetch_max(done, Ordering::Relaxed);
    }

    fn chance(&self) -> f64 {
        clock::chance()
    }
}

/// Uploads, and says on stdout what it cost.
pub(crate) fn run(part: &Part) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let sent = runtime.block_on(async {
        let client = http::client(&http::Options::default())?;
        let idle_mib = held("VmRSS:")?;
        let begun = clock::monotonic();
        let path = part.package.clone();
        let package = tokio::task::spawn_blocking(move || LocalPackage::measure(&path, MAX_PACKAGE)).await??;
        let told = Told { part, first: AtomicU64::new(u64::MAX), done: AtomicU64::new(0) };
        let outcome = upload::upload(&client, &Settings::default(), &package, &told).await?;
        let (bytes, is_done) = match outcome {
            upload::Outcome::Uploaded(uploaded) => {
                if !uploaded.is_verified {
                    bail!("the blob was not verified");
                }
                (uploaded.sent, true)
            }
            upload::Outcome::Paused { acknowledged } => {
                let first = told.first.load(Ordering::Relaxed);
                (acknowledged - first.min(acknowledged), false)
            }
            upload::Outcome::NotHolder => bail!("nobody else is there"),
        };
        Ok(Sent { bytes, is_done, seconds: begun.elapsed().as_secs_f64(), idle_mib, peak_mib: held("VmHWM:")? })
    })?;
    println!("{}", serde_json::to_string(&sent)?);
    Ok(())
}

/// What this process holds, in MiB.
fn held(name: &str) -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("this system does not tell")?;
    let line = status.lines().find(|line| line.starts_with(name)).context("no such line")?;
    let kib: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib / 1024.0)
}
