//! Worker processes of the real program: started, killed with SIGKILL, started again, and asked to stop at the end.

use std::{
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use longshore::clock;
use tokio::process::{Child, Command};

/// How long an orderly stop may take.
const STOP: Duration = Duration::from_secs(30);

/// The program under test, with this configuration and no other.
pub(crate) fn program(configuration: &[PathBuf]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    let foreign: Vec<OsString> = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| name.to_string_lossy().to_ascii_uppercase().starts_with("LONGSHORE"))
        .collect();
    for name in foreign {
        command.env_remove(name);
    }
    for file in configuration {
        command.arg("--config").arg(file);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// The workers.
#[derive(Debug)]
pub(crate) struct Fleet {
    configuration: Vec<PathBuf>,
    logs: PathBuf,
    workers: Vec<Child>,
    started: usize,
    /// When a worker was killed, milliseconds since 1970.
    pub(crate) kills: Vec<i64>,
}

impl Fleet {
    /// Starts so many workers.
    pub(crate) fn start(workers: usize, configuration: Vec<PathBuf>, logs: &Path) -> Result<Self> {
        let logs = logs.to_owned();
        let mut fleet = Self { configuration, logs, workers: Vec::new(), started: 0, kills: Vec::new() };
        for _ in 0..workers {
            let worker = fleet.worker()?;
            fleet.workers.push(worker);
        }
        Ok(fleet)
    }

    fn worker(&mut self) -> Result<Child> {
        self.started += 1;
        let log = File::create(self.logs.join(format!("worker-{:04}.log", self.started)))?;
        let mut command = program(&self.configuration);
        command.arg("worker").stdout(log.try_clone()?).stderr(log);
        command.spawn().context("a worker cannot be started")
    }

    pub(crate) const fn started(&self) -> usize {
        self.started
    }

    /// SIGKILL to the worker at this place, and another one in its place.
    pub(crate) async fn kill(&mut self, place: usize) -> Result<()> {
        let fresh = self.worker()?;
        let place = place % self.workers.len();
        let worker = self.workers.get_mut(place).context("there is no worker")?;
        let mut killed = std::mem::replace(worker, fresh);
        if let Some(status) = killed.try_wait()? {
            bail!("a worker ended by itself: {status}; its log lies in {}", self.logs.display());
        }
        self.kills.push(clock::moment().as_millis());
        killed.kill().await.context("a worker could not be killed")
    }

    /// Asks all to stop, and waits until they have.
    pub(crate) async fn stop(self) -> Result<()> {
        for worker in &self.workers {
            ask_to_stop(worker);
        }
        for mut worker in self.workers {
            let status: ExitStatus =
                tokio::time::timeout(STOP, worker.wait()).await.context("a worker did not stop when asked")??;
            // One that was started a moment ago does not listen yet.
            ensure!(status.success() || was_terminated(status), "a worker that was asked to stop ended with {status}");
        }
        Ok(())
    }
}

#[cfg(unix)]
fn ask_to_stop(worker: &Child) {
    let pid = worker.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // One that is gone is found when it is waited for.
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
    }
}

#[cfg(unix)]
fn was_terminated(status: ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(rustix::process::Signal::TERM.as_raw())
}

#[cfg(not(unix))]
const fn was_terminated(_: ExitStatus) -> bool {
    false
}

#[cfg(not(unix))]
fn ask_to_stop(_: &Child) {}
