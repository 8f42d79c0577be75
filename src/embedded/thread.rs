//! A thread that owns one connection and does what it is handed, one task after the other.

use std::{path::PathBuf, sync::Arc, time::Duration};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{
    error::{Error, Fault},
    file::Shared,
};

/// Tasks that may wait for one thread.
const WAITING: usize = 256;

/// How long the whole may take: the wait in line and the work.
const PATIENCE: Duration = Duration::from_secs(30);

/// Something to do with the connection.
pub(super) type Task = Box<dyn FnOnce(&mut Connection) + Send>;

/// The sending side; the thread ends after the last one is gone.
#[derive(Debug, Clone)]
pub(super) struct Thread {
    tasks: mpsc::Sender<Task>,
    file: Arc<PathBuf>,
}

impl Thread {
    /// Starts a thread; `after` is done behind every task.
    pub(super) fn start(
        name: &str,
        shared: &Shared,
        mut connection: Connection,
        mut after: impl FnMut(&mut Connection) + Send + 'static,
    ) -> Result<Self, Error> {
        let (tasks, mut waiting) = mpsc::channel::<Task>(WAITING);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while let Some(task) = waiting.blocking_recv() {
                    task(&mut connection);
                    after(&mut connection);
                }
            })
            .map_err(|error| Error::Sqlite { file: shared.file.clone(), why: format!("no thread for it: {error}") })?;
        Ok(Self { tasks, file: Arc::new(shared.file.clone()) })
    }

    /// Has something done and waits for what comes of it.
    ///
    /// Dropped before its turn it is not done at all; dropped later it is done, and its outcome is dropped on the thread.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Error> {
        self.run_within(PATIENCE, work).await
    }

    /// The same for what may take longer, or must not take so long.
    pub(super) async fn run_within<T: Send + 'static>(
        &self,
        span: Duration,
        work: impl FnOnce(&mut Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        let task: Task = Box::new(move |connection| {
            if !answer.is_closed() {
                // Nobody may be waiting any more: what comes of it is dropped here, and a delivery goes back.
                drop(answer.send(work(connection)));
            }
        });
        let done = async {
            self.tasks.send(task).await.map_err(|_| self.stopped())?;
            answered.await.map_err(|_| self.stopped())?.map_err(|fault| fault.at(&self.file))
        };
        let why = || format!("no answer for {} s", span.as_secs());
        let slow = |_| Error::Busy { file: self.file.to_path_buf(), why: why() };
        tokio::time::timeout(span, done).await.map_err(slow)?
    }

    /// Has something done when there is room; false when there is not.
    pub(super) fn offer(&self, task: Task) -> bool {
        self.tasks.try_send(task).is_ok()
    }

    /// Wakes the thread while it lives, without keeping it alive.
    pub(super) fn waker(&self) -> Waker {
        Waker(self.tasks.downgrade())
    }

    fn stopped(&self) -> Error {
        Error::Stopped { file: self.file.to_path_buf() }
    }
}

/// Wakes a thread while it lives.
#[derive(Debug, Clone)]
pub(super) struct Waker(mpsc::WeakSender<Task>);

impl Waker {
    /// Has the thread do what it does behind every task. A full line does as well: it is behind the next task anyway.
    pub(super) fn wake(&self) {
        if let Some(tasks) = self.0.upgrade() {
            drop(tasks.try_send(Box::new(|_| {})));
        }
    }
}
