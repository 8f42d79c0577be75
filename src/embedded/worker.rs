//! One worker: its lock, and the thread that sweeps up after the others.

use std::{collections::BTreeSet, ops::Deref, sync::Arc, time::Duration};

use super::{
    Embedded, Error,
    error::Fault,
    file::{Book, Shared},
    jobs, locks, sweep,
};
use crate::{domain::ids::JobKey, engine::ports::Views};

/// How often a transfer's progress is written down at most.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// A home that may take messages: all ports of the engine. Cheap to clone; the clones are one worker.
///
/// It lives, for everybody on this file, until the last clone is dropped or the process ends, however it ends.
#[derive(Debug, Clone)]
pub struct Worker {
    home: Embedded,
    me: Arc<Me>,
}

/// What makes a worker.
#[derive(Debug)]
pub(super) struct Me {
    id: u128,
    lock: locks::Lock,
    /// A JSON list of the keys of the jobs that it works; none: all.
    only: Option<Arc<str>>,
}

impl Me {
    pub(super) const fn id(&self) -> u128 {
        self.id
    }
}

impl Deref for Worker {
    type Target = Embedded;

    fn deref(&self) -> &Embedded {
        &self.home
    }
}

impl Worker {
    pub(super) fn start(home: Embedded, only: Option<&BTreeSet<JobKey>>) -> Result<Self, Error> {
        let shared = Arc::clone(&home.inner.shared);
        let mut connection = shared.further()?;
        let id = u128::from_be_bytes(crate::clock::random_bytes());
        let lock = shared.write(&mut connection, |book| enlist(book, id, only.is_some()));
        let lock = lock.map_err(|fault| fault.at(&shared.file))?;
        let only = only.map(|jobs| {
            let keys: Vec<String> = jobs.iter().map(ToString::to_string).collect();
            serde_json::Value::from(keys).to_string().into()
        });
        let me = Arc::new(Me { id, lock, only });
        sweep::start(&home, &me, connection)?;
        Ok(Self { home, me })
    }

    /// The worker's random id: what a claim names as its worker.
    #[must_use]
    pub fn id(&self) -> u128 {
        self.me.id
    }

    /// Its lock file.
    #[must_use]
    pub fn lock_file(&self) -> &std::path::Path {
        &self.me.lock.path
    }

    pub(super) fn own_jobs(&self) -> Option<Arc<str>> {
        self.me.only.clone()
    }
}

/// Puts a new worker on the list; gives back what dead ones held, and removes files that never came on the list.
///
/// All within one write transaction, as every removal of a lock file: so nobody removes a file between its making and its
/// locking.
fn enlist(book: &Book<'_>, id: u128, is_restricted: bool) -> Result<locks::Lock, Fault> {
    let Shared { workers, .. } = book.shared;
    let lock = locks::take(workers, id).map_err(|error| Fault::Io(locks::path(workers, id), error))?;
    for known in sweep::others(book.tx, id)? {
        sweep::bury(book, known)?;
    }
    for file in locks::files(workers).map_err(|error| Fault::Io(workers.clone(), error))? {
        if file != id && !locks::lives(workers, file) {
            locks::remove(workers, file);
        }
    }
    book.tx.execute(
        "INSERT INTO workers (id, pid, since, accounts, is_restricted) VALUES (?1, ?2, ?3, ?4, ?5)",
        (id.to_be_bytes(), std::process::id(), book.now.as_millis(), book.shared.known_accounts(), is_restricted),
    )?;
    Ok(lock)
}

impl Views for Worker {
    fn transferred(&self, job: &JobKey, done: u64, total: u64) {
        let shared = Arc::clone(&self.home.inner.shared);
        if !shared.may_note(job, PROGRESS_EVERY) {
            return;
        }
        let job = job.clone();
        let note = move |connection: &mut rusqlite::Connection| {
            if let Err(fault) = shared.write(connection, |book| jobs::transferred(book, &job, done, total)) {
                let error = fault.at(&shared.file);
                tracing::debug!(%error, "a transfer's progress was not written");
            }
        };
        if !self.home.inner.writer.offer(Box::new(note)) {
            tracing::debug!("a transfer's progress was not written: the writer is busy");
        }
    }
}
