//! The demo's workers: child processes of this same program.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use tokio::process::{Child, Command};

/// How long a worker may take to stop in order.
const STOP: Duration = Duration::from_secs(5);

/// Worker processes, their configuration and their logs.
#[derive(Debug)]
pub(super) struct Workers {
    configuration: Vec<PathBuf>,
    logs: PathBuf,
    children: Vec<Child>,
    /// Workers started so far.
    pub(super) started: usize,
    /// Workers killed so far.
    pub(super) killed: usize,
}

impl Workers {
    pub(super) const fn new(configuration: Vec<PathBuf>, logs: PathBuf) -> Self {
        Self { configuration, logs, children: Vec::new(), started: 0, killed: 0 }
    }

    /// Starts one more.
    pub(super) fn start(&mut self) -> Result<(), String> {
        self.started += 1;
        let program = std::env::current_exe().map_err(|error| format!("this program cannot be found: {error}"))?;
        let log = self.logs.join(format!("worker-{}.log", self.started));
        let open = || File::options().append(true).create(true).open(&log);
        let cannot = |error: std::io::Error| format!("{} cannot be written: {error}", log.display());
        let mut command = Command::new(program);
        for file in &self.configuration {
            command.arg("--config").arg(file);
        }
        // A configuration of the person who runs the demo must not reach it.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LONGSHORE")) {
            command.env_remove(name);
        }
        command.arg("worker").stdin(Stdio::null()).kill_on_drop(true);
        command.stdout(open().map_err(cannot)?).stderr(open().map_err(cannot)?);
        self.children.push(command.spawn().map_err(|error| format!("a worker cannot be started: {error}"))?);
        Ok(())
    }

    /// SIGKILL to the worker of this process id; false when it is none of ours.
    pub(super) async fn kill(&mut self, pid: u32) -> Result<bool, String> {
        let Some(place) = self.children.iter().position(|child| child.id() == Some(pid)) else { return Ok(false) };
        let mut child = self.children.swap_remove(place);
        child.kill().await.map_err(|error| format!("worker {pid} could not be killed: {error}"))?;
        self.killed += 1;
        Ok(true)
    }

    /// Have all workers that should live not ended?
    pub(super) fn check(&mut self) -> Result<(), String> {
        for child in &mut self.children {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("a worker of the demo ended by itself ({status}): {}", last_words(&self.logs)));
            }
        }
        Ok(())
    }

    /// Stops all in order, and kills who does not.
    pub(super) async fn stop(&mut self) {
        for child in &mut self.children {
            ask_to_stop(child);
        }
        for mut child in self.children.drain(..) {
            if tokio::time::timeout(STOP, child.wait()).await.is_err() {
                // It is killed when it is dropped.
                tracing::warn!("a worker of the demo did not stop in time");
            }
        }
    }
}

#[cfg(unix)]
fn ask_to_stop(child: &Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::TERM)
    {
        tracing::debug!(%error, "a worker of the demo had ended before");
    }
}

#[cfg(not(unix))]
fn ask_to_stop(child: &mut Child) {
    if let Err(error) = child.start_kill() {
        tracing::debug!(%error, "a worker of the demo had ended before");
    }
}

/// The last line of the newest log that holds any.
fn last_words(logs: &std::path::Path) -> String {
    let mut files: Vec<PathBuf> =
        fs::read_dir(logs).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    let last = files.iter().rev().filter_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        text.lines().rfind(|line| !line.trim().is_empty()).map(str::to_owned)
    });
    last.into_iter().next().unwrap_or_else(|| "its log is empty".to_owned())
}
