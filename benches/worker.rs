//! `make bench`: how long `longshore worker` takes from its start to its first call, and what it holds while idle.
//!
//! Prints figures beside their goals and asserts nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use longshore::{
    clock, config,
    sandbox::{Account, Options, Sandbox},
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

const ROUNDS: usize = 11;
const START_GOAL_MS: f64 = 200.0;
const MEMORY_GOAL_MIB: f64 = 30.0;
/// How long an idle worker is watched.
const IDLE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run())
}

async fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (mut sign_in, mut api) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let root = folder.path().join(round.to_string());
        let [first, second] = first_calls(&root).await.with_context(|| format!("round {round}"))?;
        sign_in.push(first);
        api.push(second);
    }
    let [idle, peak] = idle_memory(&folder.path().join("idle")).await?;
    println!("start to sign-in      {}", spread(&mut sign_in));
    println!("start to first call   {}   goal {START_GOAL_MS:.0} ms", spread(&mut api));
    println!("idle memory           {idle:.1} MiB resident, {peak:.1} MiB at most   goal {MEMORY_GOAL_MIB:.0} MiB");
    Ok(())
}

fn spread(millis: &mut [f64]) -> String {
    millis.sort_by(f64::total_cmp);
    let at = |place: usize| millis.get(place).copied().unwrap_or_default();
    let last = millis.len().saturating_sub(1);
    format!("median {:.0} ms, {:.0} to {:.0} ms in {} starts", at(last / 2), at(0), at(last), millis.len())
}

/// A fresh home with one job in it; milliseconds from the start of a worker to its sign-in and to its first API call.
async fn first_calls(root: &Path) -> Result<[f64; 2]> {
    let (sandbox, configuration) = set_up(root).await?;
    let job = root.join("job.json");
    fs::write(
        &job,
        r#"{"id":"bench","kind":"status-poll","account":"sandbox","spec":{"product":{"id":"1"},"submission":{"id":"2"}}}"#,
    )?;
    let submitted = program(&configuration).arg("submit").arg(&job).output().await?;
    ensure!(submitted.status.success(), "submit: {}", String::from_utf8_lossy(&submitted.stderr));
    let begun = clock::now();
    let mut worker = program(&configuration).arg("worker").spawn()?;
    let seen = timeout(PATIENCE, both(&sandbox)).await.context("no call came")?;
    worker.kill().await?;
    sandbox.stop().await;
    Ok(seen?.map(|at| at.duration_since(begun).as_secs_f64() * 1_000.0))
}

/// When the first requests to the token endpoint and to the API came in, once both have.
async fn both(sandbox: &Sandbox) -> Result<[Timestamp; 2]> {
    loop {
        let journal = sandbox.journal();
        let first = |is_token: bool| {
            let mut entries = journal.as_array().into_iter().flatten();
            entries.find(|entry| text(entry, "operation").starts_with("getToken") == is_token)
        };
        if let (Some(token), Some(call)) = (first(true), first(false)) {
            return Ok([text(token, "at").parse()?, text(call, "at").parse()?]);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn text<'a>(entry: &'a Value, name: &str) -> &'a str {
    entry.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A worker without work: resident memory after a while, and the most it ever held, in MiB.
async fn idle_memory(root: &Path) -> Result<[f64; 2]> {
    let (sandbox, configuration) = set_up(root).await?;
    let mut command = program(&configuration);
    let mut worker = command.arg("worker").stderr(Stdio::piped()).spawn()?;
    timeout(PATIENCE, ready(&mut worker)).await.context("the worker is not ready")??;
    tokio::time::sleep(IDLE).await;
    let status = fs::read_to_string(format!("/proc/{}/status", worker.id().unwrap_or_default()))
        .context("this system does not tell what a process holds")?;
    worker.kill().await?;
    sandbox.stop().await;
    let mib = |name: &str| -> Result<f64> {
        let line = status.lines().find(|line| line.starts_with(name)).context("no such line")?;
        let kib: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
        Ok(kib / 1024.0)
    };
    Ok([mib("VmRSS:")?, mib("VmHWM:")?])
}

/// Waits until it says where its health is shown, and until it is well.
async fn ready(worker: &mut Child) -> Result<()> {
    let mut lines = BufReader::new(worker.stderr.take().context("no stderr")?).lines();
    let address = loop {
        let line = lines.next_line().await?.context("the worker ended")?;
        if let Some((_, address)) = line.split_once("health ") {
            break address.trim().to_owned();
        }
    };
    while !reqwest::get(format!("{address}/readyz")).await?.status().is_success() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn set_up(root: &Path) -> Result<(Sandbox, Vec<PathBuf>)> {
    fs::create_dir_all(root)?;
    let account =
        Account::new("sandbox", "11111111-2222-4333-8444-555555555555", "66666666-7777-4888-8999-aaaaaaaaaaaa");
    let options = Options { data_dir: Some(root.join("sandbox")), accounts: vec![account], ..Options::default() };
    let sandbox = Sandbox::start(options).await?;
    let own = format!("{}\n[home]\ndata_dir = \"home\"\n", sandbox.overlay());
    let mut configuration = Vec::new();
    for (name, text) in [("sandbox.toml", config::SANDBOX), ("own.toml", own.as_str())] {
        fs::write(root.join(name), text)?;
        configuration.push(root.join(name));
    }
    Ok((sandbox, configuration))
}

fn program(configuration: &[PathBuf]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LONGSHORE")) {
        command.env_remove(name);
    }
    for file in configuration {
        command.arg("--config").arg(file);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command
}
