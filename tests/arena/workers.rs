//! Worker processes of the real program: started, killed, stopped and continued by their process ids.

use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// How long an orderly stop may take.
const STOP: Duration = Duration::from_secs(60);
/// By which a crash point kills.
const ABORTED: i32 = 6;

/// The program under test, with this configuration and no other.
pub(crate) fn program(configuration: &[PathBuf]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    let foreign = |name: &OsString| {
        let name = name.to_string_lossy().to_ascii_uppercase();
        name.starts_with("LONGSHORE") || name.contains("PROXY")
    };
    for name in std::env::vars_os().map(|(name, _)| name).filter(foreign) {
        command.env_remove(name);
    }
    if let Some(folder) = configuration.first().and_then(|file| file.parent()) {
        for name in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
            command.env(name, folder);
        }
        command.current_dir(folder);
    }
    for file in configuration {
        command.arg("--config").arg(file);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    pub(crate) log: PathBuf,
    /// The crash point at which it is to die.
    pub(crate) armed: Option<String>,
    /// How it ended, when its end was seen.
    ended: Option<ExitStatus>,
}

impl Worker {
    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        kill_process(pid.context("this worker has ended")?, signal)?;
        Ok(())
    }

    /// Its end, when it has come.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    /// Did it die at the point that it was armed with?
    pub(crate) fn has_fired(&mut self) -> Result<bool> {
        let Some(status) = self.ended()? else { return Ok(false) };
        let told = self.armed.as_ref().map(|point| {
            let point = point.rsplit_once(':').map_or(point.as_str(), |(name, _)| name);
            format!("crash point {point} reached")
        });
        let log = fs::read_to_string(&self.log)?;
        Ok(status.signal() == Some(ABORTED) && told.is_some_and(|told| log.lines().any(|line| line == told)))
    }

    /// Has its log this line?
    pub(crate) fn says(&self, part: &str) -> bool {
        fs::read_to_string(&self.log).is_ok_and(|log| log.contains(part))
    }
}

/// The workers.
#[derive(Debug)]
pub(crate) struct Workers {
    configuration: Vec<PathBuf>,
    logs: PathBuf,
    all: Vec<Worker>,
    started: usize,
    pub(crate) killed: usize,
}

impl Workers {
    pub(super) fn new(configuration: Vec<PathBuf>, logs: PathBuf) -> Self {
        Self { configuration, logs, all: Vec::new(), started: 0, killed: 0 }
    }

    fn start(&mut self, armed: Option<&str>) -> Result<Worker> {
        self.started += 1;
        let log = self.logs.join(format!("worker-{:03}.log", self.started));
        let file = File::create(&log)?;
        let mut command = program(&self.configuration);
        if let Some(point) = armed {
            command.env("LONGSHORE_CRASH_AT", point);
        }
        command.arg("worker").stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().context("a worker cannot be started")?;
        Ok(Worker { child, log, armed: armed.map(str::to_owned), ended: None })
    }

    /// Starts another one.
    pub(crate) fn add(&mut self, armed: Option<&str>) -> Result<usize> {
        let worker = self.start(armed)?;
        self.all.push(worker);
        Ok(self.all.len() - 1)
    }

    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    pub(crate) const fn started(&self) -> usize {
        self.started
    }

    pub(crate) fn get(&mut self, place: usize) -> Result<&mut Worker> {
        self.all.get_mut(place).context("there is no such worker")
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self, place: usize) -> Result<()> {
        self.killed += 1;
        let worker = self.get(place)?;
        worker.child.start_kill().ok();
        worker.ended = Some(worker.child.wait().await?);
        Ok(())
    }

    /// Another one in the place of one that has ended.
    pub(crate) fn replace(&mut self, place: usize, armed: Option<&str>) -> Result<()> {
        let fresh = self.start(armed)?;
        let worker = self.get(place)?;
        ensure!(worker.ended()?.is_some(), "the worker still runs");
        *worker = fresh;
        Ok(())
    }

    /// SIGSTOP: it holds what it has, and does nothing.
    pub(crate) fn freeze(&mut self, place: usize) -> Result<()> {
        self.get(place)?.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub(crate) fn thaw(&mut self, place: usize) -> Result<()> {
        self.get(place)?.signal(Signal::CONT)
    }

    /// SIGTERM.
    pub(crate) fn ask_to_stop(&mut self, place: usize) -> Result<()> {
        self.get(place)?.signal(Signal::TERM)
    }

    /// Fails when one that nobody armed or killed has ended.
    pub(crate) fn are_alive(&mut self) -> Result<()> {
        for worker in &mut self.all {
            if worker.armed.is_none()
                && worker.ended.is_none()
                && let Some(status) = worker.ended()?
            {
                bail!("a worker ended by itself, {status}: {}", last_lines(&worker.log));
            }
        }
        Ok(())
    }

    /// Asks all to stop and waits until they have.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        for worker in self.all.iter_mut().filter(|worker| worker.ended.is_none()) {
            worker.signal(Signal::TERM).ok();
        }
        for mut worker in std::mem::take(&mut self.all).into_iter().filter(|worker| worker.ended.is_none()) {
            let waited = tokio::time::timeout(STOP, worker.child.wait()).await;
            let status = waited.with_context(|| format!("a worker did not stop: {}", last_lines(&worker.log)))??;
            // One that was started a moment ago does not listen yet.
            let is_asked = status.success() || status.signal() == Some(Signal::TERM.as_raw());
            ensure!(is_asked, "a worker that was asked to stop ended with {status}: {}", last_lines(&worker.log));
        }
        Ok(())
    }

    /// Ends all at once.
    pub(super) async fn end(&mut self) {
        for mut worker in std::mem::take(&mut self.all) {
            worker.child.kill().await.ok();
        }
    }
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    format!("{}\n{}", log.display(), lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n"))
}
