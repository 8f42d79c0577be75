//! What `doctor` and the console tell of the home as a whole.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use rusqlite::OptionalExtension;

use super::{Embedded, Error, Worker, count, error::Fault, file, jobs, locks};
use crate::domain::{
    claim::Birth,
    ids::{AccountName, JobKey},
    time::Moment,
};

/// How long a sign of life may take.
const PULSE: Duration = Duration::from_secs(5);

/// A worker that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerInfo {
    /// Its random id.
    pub id: u128,
    /// Its process, as it sees itself.
    pub pid: u32,
    /// When it began.
    pub since: Moment,
    /// Messages in its hands.
    pub messages: u64,
    /// It works certain jobs only, or none: what `sign` and `submit --wait` run beside other workers.
    pub is_restricted: bool,
    /// The accounts that it knows; none: all.
    pub accounts: Option<BTreeSet<AccountName>>,
}

impl WorkerInfo {
    /// Does it take whatever comes of this account?
    #[must_use]
    pub fn works_for(&self, account: &AccountName) -> bool {
        !self.is_restricted && self.accounts.as_ref().is_none_or(|known| known.contains(account))
    }
}

/// How much the file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Bytes of the file, without its write-ahead log.
    pub bytes: u64,
    /// Jobs, ended ones included.
    pub jobs: u64,
    /// Messages in the queue.
    pub messages: u64,
    /// Events.
    pub events: u64,
    /// Dead letters.
    pub dead_letters: u64,
}

/// What waits in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// How long the oldest message that is due has waited.
    pub oldest: Duration,
    /// Messages that are due.
    pub waiting: u64,
    /// Messages that are set aside until a time.
    pub parked: u64,
    /// Messages in a worker's hands.
    pub held: u64,
}

impl Worker {
    /// Asks both threads that jobs need for a sign of life, and counts the queue.
    ///
    /// # Errors
    /// [`Error::Stopped`] when one of them has ended; another when the file gives no answer within five seconds, or this
    /// worker's lock file is gone.
    pub async fn pulse(&self) -> Result<Backlog, Error> {
        self.inner.writer.run_within(PULSE, |_| Ok(())).await?;
        let (shared, lock) = (Arc::clone(&self.inner.shared), self.lock_file().to_path_buf());
        self.inner
            .looks
            .run_within(PULSE, move |connection| {
                if !lock.exists() {
                    return Err(Fault::LockGone(lock));
                }
                let now = shared.now(connection)?;
                let mut statement = connection.prepare_cached(
                    "SELECT coalesce(sum(taken_by IS NULL AND due <= ?1), 0), coalesce(sum(taken_by IS NULL AND due > ?1), 0),
                            count(taken_by), min(CASE WHEN taken_by IS NULL THEN due END) FROM messages",
                )?;
                Ok(statement.query_row([now.as_millis()], |row| {
                    let first = row.get::<_, Option<i64>>(3)?.map_or(now, Moment::from_millis);
                    let [waiting, parked, held] = [count(row.get(0)?), count(row.get(1)?), count(row.get(2)?)];
                    Ok(Backlog { oldest: now.since(first), waiting, parked, held })
                })?)
            })
            .await
    }
}

impl Embedded {
    /// The workers that live now, oldest first.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn workers(&self) -> Result<Vec<WorkerInfo>, Error> {
        self.page(|connection, shared| {
            let mut statement = connection.prepare_cached(
                "SELECT id, pid, since, (SELECT count(*) FROM messages WHERE taken_by = workers.id), is_restricted,
                        accounts
                   FROM workers ORDER BY since, id",
            )?;
            let rows = statement.query_map([], |row| {
                let id: [u8; 16] = row.get(0)?;
                let worker = WorkerInfo {
                    id: u128::from_be_bytes(id),
                    pid: row.get(1)?,
                    since: Moment::from_millis(row.get(2)?),
                    messages: count(row.get(3)?),
                    is_restricted: row.get(4)?,
                    accounts: None,
                };
                Ok((worker, row.get::<_, Option<String>>(5)?))
            })?;
            let read = rows.map(|row| {
                let (mut worker, accounts) = row?;
                let accounts = accounts.map(|list| serde_json::from_str(&list)).transpose();
                worker.accounts = accounts.map_err(Fault::unreadable("worker"))?;
                Ok(worker)
            });
            let mut alive = read.collect::<Result<Vec<_>, Fault>>()?;
            alive.retain(|worker| locks::lives(&shared.workers, worker.id));
            Ok(alive)
        })
        .await
    }

    /// How much the file holds.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn size(&self) -> Result<Size, Error> {
        self.page(|connection, _| {
            let number = |sql: &str| connection.query_row(sql, [], |row| row.get(0)).map(count);
            let pages = number("SELECT page_count FROM pragma_page_count")?;
            let page = number("SELECT page_size FROM pragma_page_size")?;
            Ok(Size {
                bytes: pages.saturating_mul(page),
                jobs: number("SELECT count(*) FROM jobs")?,
                messages: number("SELECT count(*) FROM messages")?,
                events: number("SELECT count(*) FROM events")?,
                dead_letters: number("SELECT count(*) FROM dead_letters")?,
            })
        })
        .await
    }

    /// The job that was accepted first of all that are remembered, and when.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn oldest_job(&self) -> Result<Option<(JobKey, Moment)>, Error> {
        let found = self.page(|connection, _| {
            let row: Option<(String, i64)> = connection
                .query_row("SELECT job, accepted_at FROM jobs ORDER BY accepted_at, job LIMIT 1", [], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .optional()?;
            Ok(row)
        });
        Ok(found.await?.and_then(|(job, at)| Some((jobs::parse_key(&job)?, Moment::from_millis(at)))))
    }

    /// Since when the memory remembers, and whether anything can have been lost then.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn birth(&self) -> Result<Birth, Error> {
        self.page(|connection, _| file::birth(connection)).await
    }

    /// The memory's clock.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn now(&self) -> Result<Moment, Error> {
        self.look(|connection, shared| shared.now(connection)).await
    }
}
