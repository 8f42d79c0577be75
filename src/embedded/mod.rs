//! The standalone home: queue, memory, events, dead letters, quota and sealed tokens in one SQLite file.
//!
//! Promises: every write is one `BEGIN IMMEDIATE` transaction that is on the disk before anybody is told
//! (`synchronous = FULL`), so `kill -9` at any instant loses nothing; several processes may share the file; a killed
//! worker's messages are given out again within 100 ms, by the word of the kernel and no clock (see [`Worker`]).
//! A step's end is one transaction ([`crate::engine::ports::Queue::settle`]).
//!
//! Who is alive: a worker holds an exclusive lock on `workers/<random id>.lock` for as long as its process lives. A claim
//! is alive while its worker is **and** a message of its job has been in that worker's hands ever since: settling, a panic
//! that drops the delivery, and the death of the process all end the claim in the transaction that ends the taking.
//!
//! Left to others: what a job means (`domain`), when to ask (`engine`), sealing of tokens (`identity`). Only this folder
//! names `rusqlite`.

mod error;
mod file;
mod schema;
mod system;
mod thread;

mod dead_letters;
mod events;
mod glance;
mod jobs;
mod listings;
mod locks;
mod memory;
mod queue;
mod quota;
mod retention;
mod settle;
mod submit;
mod sweep;
mod tokens;
mod turns;
mod views;
mod worker;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use rusqlite::Connection;

use crate::domain::{
    claim,
    claim::Birth,
    ids::{AccountName, JobKey},
    quota::Limits,
};

pub use crate::{
    clock::Shift,
    domain::{
        dead_letter::{DeadLetter, DeadLetters},
        view::{JobFilter, JobSummary, JobView, State, Transfer},
    },
};

pub use self::{
    error::Error,
    events::EventFilter,
    glance::{Named, glance},
    queue::Delivery,
    retention::Tidied,
    submit::{Accepted, Cancelled, Replayed},
    views::{Backlog, Size, WorkerInfo},
    worker::Worker,
};
use self::{
    error::Fault,
    file::{Book, Shared},
    queue::Returns,
    thread::Thread,
};

/// How a home is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder that the file and the lock files lie in; made when missing.
    pub data_dir: PathBuf,
    /// The times of the protocol.
    pub policy: claim::Policy,
    /// How long ended jobs, events and dead letters stay.
    pub retention: Duration,
    /// Rows of one table that leave in one transaction.
    pub retention_batch: u32,
    /// What each account is allowed; one that is missing here has the defaults.
    pub limits: BTreeMap<AccountName, Limits>,
    /// The accounts that workers of this home know: tickets of others go to workers that know them, while there are any.
    /// None: all accounts.
    pub accounts: Option<BTreeSet<AccountName>>,
    /// How long a turn lasts at most, counted from its stamp, else from its taking.
    pub turn_for: Duration,
    /// How long a whole listing may be read.
    pub listing_for: Duration,
    /// How long the right to read on lasts without a page: longer than any page takes, its waits for a permit included. It
    /// is over sooner when its worker dies, or lets go of the job.
    pub listing_lease: Duration,
    /// So many failures of one page in a row make a listing one that cannot be read to its end.
    pub page_failures: u32,
    /// How long the wish to cancel a job that nobody has claimed stands, when the job's deadline is unknown.
    pub control_for: Duration,
    /// How often messages are looked for, and the locks of other workers are probed.
    pub sweep: Duration,
    /// A message that was given out so often and never settled is set aside as poison.
    pub delivery_limit: u32,
    /// Pages that the file may have, for tests of a full disk.
    pub max_page_count: Option<u64>,
    /// Moves the clock, for tests.
    pub shift: Shift,
}

impl Options {
    /// The defaults, for this folder.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            policy: claim::Policy::default(),
            retention: Duration::from_hours(30 * 24),
            retention_batch: 200,
            limits: BTreeMap::new(),
            accounts: None,
            turn_for: Duration::from_mins(20),
            listing_for: Duration::from_mins(10),
            listing_lease: Duration::from_secs(1_380),
            page_failures: 5,
            control_for: Duration::from_hours(7 * 24),
            sweep: Duration::from_millis(50),
            delivery_limit: 100,
            max_page_count: None,
            shift: Shift::default(),
        }
    }
}

/// One home. Cheap to clone: all clones share the file's threads.
///
/// This half submits, shows and decides for people; a [`Worker`] also takes messages.
#[derive(Debug, Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    /// The one thread that writes.
    writer: Thread,
    /// Quick looks: what is due, what memory knows.
    looks: Thread,
    /// What people ask for: it may take its time without holding up a job.
    pages: Thread,
    returns: Arc<Returns>,
}

impl Embedded {
    /// Opens the home in `data_dir`, and makes it when it is not there.
    ///
    /// # Errors
    /// [`Error`], by file and reason: no folder, a network file system, a newer schema, a foreign or damaged file, no room.
    pub fn open(options: Options) -> Result<Self, Error> {
        let shared = Shared::prepare(options)?;
        let writer = shared.found()?;
        let returns = Arc::new(Returns::default());
        let after = {
            let (shared, returns) = (Arc::clone(&shared), Arc::clone(&returns));
            move |connection: &mut Connection| returns.give_back(&shared, connection)
        };
        let writer = Thread::start("sqlite-writer", &shared, writer, after)?;
        returns.wake_by(writer.waker());
        let looks = Thread::start("sqlite-looks", &shared, shared.further()?, |_| {})?;
        let pages = Thread::start("sqlite-pages", &shared, shared.further()?, |_| {})?;
        Ok(Self { inner: Arc::new(Inner { shared, writer, looks, pages, returns }) })
    }

    /// Makes this process a worker: takes a lock of its own, gives back what dead workers held, and begins to sweep.
    ///
    /// The lock file is locked before any record names it, within a write transaction, so that nobody sees it unlocked.
    ///
    /// # Errors
    /// [`Error`] when the lock file cannot be made, or the file cannot be written.
    pub fn worker(&self) -> Result<Worker, Error> {
        Worker::start(self.clone(), None)
    }

    /// The same for one that takes messages of these jobs only: what `submit --wait` and `sign` run beside other workers.
    /// From its first instant nobody counts on it for anything else.
    ///
    /// # Errors
    /// As [`Embedded::worker`].
    pub fn worker_of(&self, jobs: &BTreeSet<JobKey>) -> Result<Worker, Error> {
        Worker::start(self.clone(), Some(jobs))
    }

    /// Where the file lies.
    #[must_use]
    pub fn file(&self) -> &std::path::Path {
        &self.inner.shared.file
    }

    /// An older copy of the file was put back: what it remembers may be older than what was called.
    ///
    /// Begins a new epoch with an unclean birth, so that every job under way looks before it writes; turns and listings
    /// are forgotten. Run it while no worker runs.
    ///
    /// # Errors
    /// [`Error`].
    pub fn restored(&self) -> Result<Birth, Error> {
        let shared = &self.inner.shared;
        let mut connection = shared.further()?;
        let born = shared.write(&mut connection, |book| {
            book.tx.execute(
                "UPDATE home SET epoch = ?1, born_at = ?2, born_clean = 0",
                (crate::clock::random_bytes::<16>(), book.now.as_millis()),
            )?;
            book.tx.execute_batch("DELETE FROM turns; DELETE FROM listings; DELETE FROM token_leases;")?;
            file::birth(book.tx)
        });
        born.map_err(|fault| fault.at(&shared.file))
    }

    /// Reads the whole file for damage; an empty list is good.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it cannot even be read.
    pub async fn integrity(&self) -> Result<Vec<String>, Error> {
        let found = self.inner.pages.run_within(Duration::from_mins(10), |connection| {
            let mut statement = connection.prepare("PRAGMA integrity_check(20)")?;
            let lines = statement.query_map([], |row| row.get::<_, String>(0))?;
            Ok(lines.collect::<Result<Vec<_>, _>>()?)
        });
        Ok(found.await?.into_iter().filter(|line| line != "ok").collect())
    }

    /// One write transaction on the writer's thread.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Book<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = Arc::clone(&self.inner.shared);
        self.inner.writer.run(move |connection| shared.write(connection, work)).await
    }

    /// A quick read.
    async fn look<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, &Shared) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = Arc::clone(&self.inner.shared);
        self.inner.looks.run(move |connection| work(connection, &shared)).await
    }

    /// A read for people, all of it on one state of the file.
    async fn page<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, &Shared) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = Arc::clone(&self.inner.shared);
        let read = move |connection: &mut Connection| {
            let tx = connection.transaction()?;
            work(&tx, &shared)
        };
        self.inner.pages.run(read).await
    }
}

/// A count as SQLite keeps it.
fn int(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// A count as it was kept.
fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests;
