//! A worker process: a child of the test that is killed when it is dropped, its log in the cell's folder.

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{ExitStatus, Stdio},
};

use tokio::process::{Child, Command};

use crate::folder::World;

/// SIGABRT, by which a crash point kills.
const ABORTED: i32 = 6;

/// A worker process.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    log: PathBuf,
}

impl Worker {
    /// Starts a worker on the cell's home, armed with a point and its pass.
    pub(crate) fn start(world: &World, name: &str, armed: Option<(&str, u32)>) -> Self {
        let log = world.root.join(format!("{name}.log"));
        let file = File::create(&log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
        // Nothing of the environment of whoever runs the tests may reach it.
        command.env_clear().env("HOME", &world.root).env("TMPDIR", &world.root).current_dir(&world.root);
        if let Some((point, pass)) = armed {
            command.env("LONGSHORE_CRASH_AT", format!("{point}:{pass}"));
        }
        for file in &world.configuration {
            command.arg("--config").arg(file);
        }
        command.arg("worker").stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).kill_on_drop(true);
        Self { child: command.spawn().unwrap(), log }
    }

    /// Waits for its death.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        self.child.wait().await.unwrap()
    }

    /// Did it die at this point, and nowhere else?
    pub(crate) fn died_at(&self, status: ExitStatus, point: &str) -> Result<(), String> {
        let told = format!("crash point {point} reached");
        let log = fs::read_to_string(&self.log).unwrap();
        if status.signal() == Some(ABORTED) && log.lines().any(|line| line == told) {
            return Ok(());
        }
        let last = log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("its log is empty");
        Err(format!("the worker ended ({status}), and not at {point}: {last}"))
    }

    /// Does it still run? A worker that nobody kills runs on.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends it.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}
