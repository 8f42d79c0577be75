//! Celery as its users run it: prefork, JSON, classic durable queue; the task publishes one confirmed event.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString},
};
use serde_json::json;
use tokio::process::{Child, Command};

use crate::bed::Bed;

/// Its queue.
pub(crate) const QUEUE: &str = "bench.celery";
/// Processes of its pool.
pub(crate) const POOL: u16 = 2;

/// How it acknowledges, and what its task does besides the event.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    pub(crate) acks_late: bool,
    /// Given out ahead, for each process of the pool.
    pub(crate) prefetch: u16,
    /// Bytes of an event.
    pub(crate) event: usize,
    /// Where the effect takes place, and the token for it.
    pub(crate) effects: Option<(String, String)>,
}

/// Its interpreter, if it is installed: `make bench` does that.
pub(crate) fn installed() -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
        |target| Path::new(env!("CARGO_MANIFEST_DIR")).join(target),
    );
    let program = target.join("clients/celery/bin/celery");
    program.exists().then_some(program)
}

/// A worker with all its children: killed together.
pub(crate) struct Celery {
    child: Child,
    pid: u32,
}

impl Celery {
    pub(crate) fn start(bed: &Bed, program: &Path, told: &Told) -> Result<Self> {
        let mut command = Command::new(program);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/fleet");
        command.args(["-A", "celery_app", "worker", "--pool", "prefork", "--loglevel", "ERROR"]);
        command.args(["--without-gossip", "--without-mingle", "--without-heartbeat"]);
        command.args(["--concurrency", &POOL.to_string(), "--hostname", &format!("{}@%h", uuid())]);
        command.current_dir(folder).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("BENCH_BROKER", bed.broker.url().replace("amqp://", "pyamqp://"));
        command.env("BENCH_QUEUE", QUEUE).env("BENCH_ACKS_LATE", if told.acks_late { "1" } else { "0" });
        command.env("BENCH_PREFETCH", told.prefetch.to_string()).env("BENCH_EVENT", told.event.to_string());
        if let Some((address, token)) = &told.effects {
            command.env("BENCH_EFFECTS", address).env("BENCH_TOKEN", token);
        }
        let log = std::fs::File::options().create(true).append(true).open(bed.path("celery.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A group of its own, so that its children can be killed with it.
        let child = command.process_group(0).spawn().context("Celery cannot be started")?;
        let pid = child.id().context("Celery has ended")?;
        Ok(Self { child, pid })
    }

    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    /// SIGKILL to the worker and its children, as when their machine dies.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.signal();
        self.child.wait().await?;
        Ok(())
    }

    fn signal(&self) {
        let group = format!("-{}", self.pid);
        let sent = std::process::Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        if let Err(error) = sent {
            eprintln!("Celery's processes could not be killed: {error}");
        }
    }
}

impl Drop for Celery {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal();
        }
    }
}

fn uuid() -> String {
    longshore::clock::uuid_v4().simple().to_string()
}

/// A task's message, protocol 2, as Celery's own producer writes it.
pub(crate) fn message(name: &str, product: Option<u64>) -> (BasicProperties, Vec<u8>) {
    let id = longshore::clock::uuid_v4().to_string();
    let mut headers = FieldTable::default();
    let text = |text: &str| AMQPValue::LongString(LongString::from(text));
    for (name, value) in [
        ("lang", text("py")),
        ("task", text("bench.job")),
        ("id", text(&id)),
        ("root_id", text(&id)),
        ("parent_id", AMQPValue::Void),
        ("group", AMQPValue::Void),
        ("retries", AMQPValue::LongInt(0)),
        ("argsrepr", text("()")),
        ("kwargsrepr", text("{}")),
        ("origin", text("bench")),
    ] {
        headers.insert(name.into(), value);
    }
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_correlation_id(id.as_str().into())
        .with_headers(headers);
    let embed = json!({ "callbacks": null, "errbacks": null, "chain": null, "chord": null });
    let body = json!([[name, product], {}, embed]);
    (properties, body.to_string().into_bytes())
}
