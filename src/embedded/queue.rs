//! The queue: looking, taking, giving back.
//!
//! A message is taken by a worker until it is settled; a [`Delivery`] that is dropped instead gives it back. It is found by
//! a look every 50 ms, or at once when this process has written something that may be due.
//!
//! Workers of several configurations may share the file. A worker is given messages of the accounts that it knows, messages
//! without an account, and those of accounts that no other worker knows: somebody has to say so of a job in the end.

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, named_params};

use super::{
    Worker,
    dead_letters::{self, Source},
    error::Fault,
    file::{Book, Shared},
    int, locks, memory, settle,
    thread::Waker,
};
use crate::{
    domain::{ids::JobKey, settlement::Settlement, step::Kind, ticket::Ticket, time::Moment},
    engine::ports::{Origin, Queue, Received, Settled, Unavailable},
};

/// A message that this worker has taken. Dropped without being settled it is given out again, as redelivered.
pub struct Delivery {
    pub(super) id: i64,
    pub(super) worker: u128,
    /// How often the message was given out, this time included: names the taking.
    pub(super) taken: i64,
    /// When it was given out.
    pub(super) taken_at: Moment,
    pub(super) source: Source,
    returns: Option<Arc<Returns>>,
    was_seen: bool,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("id", &self.id).field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl Delivery {
    /// It is settled, or no longer ours: nothing is left to give back.
    fn forget(mut self) {
        self.returns = None;
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(returns) = self.returns.take() {
            let Self { id, worker, taken, was_seen, .. } = *self;
            returns.push(Return { id, worker, taken, was_seen });
        }
    }
}

#[derive(Debug)]
struct Return {
    id: i64,
    worker: u128,
    taken: i64,
    was_seen: bool,
}

/// Messages that were dropped and wait for the writer to give them back; at most one for each that was taken.
#[derive(Debug, Default)]
pub(super) struct Returns {
    waiting: Mutex<Vec<Return>>,
    waker: OnceLock<Waker>,
}

impl Returns {
    pub(super) fn wake_by(&self, waker: Waker) {
        self.waker.get_or_init(|| waker);
    }

    fn push(&self, back: Return) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(back);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }

    /// Has the writer try again what it could not give back before.
    pub(super) fn wake_if_waiting(&self) {
        if !self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            self.wake();
        }
    }

    /// Gives everything back that waits; runs on the writer's thread behind every task.
    pub(super) fn give_back(&self, shared: &Shared, connection: &mut Connection) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        if waiting.is_empty() {
            return;
        }
        if let Err(fault) = shared.write(connection, |book| waiting.iter().try_for_each(|back| give_back(book, back))) {
            let error = fault.at(&shared.file);
            tracing::warn!(%error, messages = waiting.len(), "messages are given back later");
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).extend(waiting);
        }
    }
}

fn give_back(book: &Book<'_>, back: &Return) -> Result<(), Fault> {
    // One that nobody has seen was not given out: it comes again without a mark.
    let unseen = i64::from(!back.was_seen);
    let given_back: Option<Option<String>> = book
        .tx
        .prepare_cached(
            "UPDATE messages SET taken_by = NULL, taken = taken - ?4 WHERE id = ?1 AND taken_by = ?2 AND taken = ?3
             RETURNING job",
        )?
        .query_row((back.id, back.worker.to_be_bytes(), back.taken, unseen), |row| row.get(0))
        .optional()?;
    book.wakes.set(book.wakes.get() || given_back.is_some());
    given_back.flatten().map_or(Ok(()), |job| memory::left(book, &job, back.worker))
}

/// A message as it lies in the queue.
pub(super) struct Message<'a> {
    pub(super) source: Source,
    pub(super) bulk: bool,
    pub(super) due: Moment,
    pub(super) job: Option<&'a JobKey>,
    pub(super) body: &'a str,
}

/// Puts a message into the queue.
pub(super) fn put(book: &Book<'_>, message: &Message<'_>) -> Result<(), Fault> {
    book.tx
        .prepare_cached(
            "INSERT INTO messages (lane, origin, bulk, due, account, job, published_at, body)
             VALUES (:lane, :origin, :bulk, :due, :account, :job, :now, :body)",
        )?
        .execute(named_params! {
            ":lane": message.source.lane.name(),
            ":origin": dead_letters::origin_number(message.source.origin),
            ":bulk": message.bulk,
            ":due": message.due.as_millis(),
            ":account": message.job.map(|job| job.account.as_str()),
            ":job": message.job.map(ToString::to_string),
            ":now": book.now.as_millis(),
            ":body": message.body,
        })?;
    book.wakes.set(true);
    Ok(())
}

/// Puts a ticket into the queue, on its lane, due when it says.
pub(super) fn put_ticket(book: &Book<'_>, origin: Origin, ticket: &Ticket) -> Result<(), Fault> {
    let body = serde_json::to_string(ticket).map_err(Fault::unreadable("ticket"))?;
    put(
        book,
        &Message {
            source: Source { lane: ticket.lane(), origin },
            bulk: ticket.job.bulk,
            due: ticket.due.unwrap_or(book.now),
            job: Some(&ticket.key()),
            body: &body,
        },
    )
}

/// The accounts that have messages of which this worker may be given some: those that it knows, and those that nobody knows
/// who works whatever comes. What they are called is read from the index, one step for each.
const SERVED: &str = "
WITH RECURSIVE present (account) AS (
    SELECT min(account) FROM messages WHERE account IS NOT NULL
    UNION ALL
    SELECT (SELECT min(m.account) FROM messages m WHERE m.account > present.account)
      FROM present WHERE present.account IS NOT NULL
)
SELECT account FROM present
 WHERE account IS NOT NULL
   AND (:known IS NULL
        OR account IN (SELECT value FROM json_each(:known))
        OR NOT EXISTS (SELECT 1 FROM workers w
                        WHERE w.id <> :worker AND w.is_restricted = 0
                          AND (w.accounts IS NULL OR present.account IN (SELECT value FROM json_each(w.accounts)))))";

/// The list of these accounts as JSON, led by the null that stands for messages without one.
fn served(connection: &Connection, shared: &Shared, worker: u128) -> Result<String, Fault> {
    let mut statement = connection.prepare_cached(SERVED)?;
    let known = shared.known_accounts();
    let names = statement
        .query_map(named_params! { ":known": known, ":worker": worker.to_be_bytes() }, |row| row.get::<_, String>(0))?;
    let mut list = vec![serde_json::Value::Null];
    for name in names {
        list.push(name?.into());
    }
    Ok(serde_json::Value::from(list).to_string())
}

const NEXT_DUE: &str = "
SELECT min((SELECT due FROM messages
             WHERE lane = ?1 AND taken_by IS NULL AND account IS k.value AND bulk = b.value ORDER BY due LIMIT 1))
  FROM json_each(?2) k CROSS JOIN json_each('[0, 1]') b";

const NEXT_DUE_OF_JOBS: &str = "
SELECT min(m.due) FROM json_each(?3) k CROSS JOIN messages m ON m.job = k.value
 WHERE m.lane = ?1 AND m.taken_by IS NULL
   AND (m.account IS NULL OR m.account IN (SELECT value FROM json_each(?2)))";

/// When the next message of a lane is due; interactive and bulk alike.
fn next_due(connection: &Connection, lane: Kind, served: &str, only: Option<&str>) -> Result<Option<Moment>, Fault> {
    let due: Option<i64> = match only {
        None => connection.prepare_cached(NEXT_DUE)?.query_row((lane.name(), served), |row| row.get(0))?,
        Some(jobs) => {
            connection.prepare_cached(NEXT_DUE_OF_JOBS)?.query_row((lane.name(), served, jobs), |row| row.get(0))?
        }
    };
    Ok(due.map(Moment::from_millis))
}

const NEXT: &str = "
SELECT m.id FROM json_each(?2) k
  CROSS JOIN messages m ON m.id = (
      SELECT id FROM messages
       WHERE lane = ?1 AND taken_by IS NULL AND account IS k.value AND bulk = ?4 AND due <= ?3 ORDER BY due, id LIMIT 1)
 ORDER BY m.due, m.id LIMIT 1";

const NEXT_OF_JOBS: &str = "
SELECT m.id FROM json_each(?4) k CROSS JOIN messages m ON m.job = k.value
 WHERE m.lane = ?1 AND m.taken_by IS NULL AND m.due <= ?3
   AND (m.account IS NULL OR m.account IN (SELECT value FROM json_each(?2)))
 ORDER BY m.bulk, m.due, m.id LIMIT 1";

/// The message that is to be given out next: interactive before bulk, in order of due.
fn next(book: &Book<'_>, lane: Kind, served: &str, only: Option<&str>) -> Result<Option<i64>, Fault> {
    let now = book.now.as_millis();
    if let Some(jobs) = only {
        let mut statement = book.tx.prepare_cached(NEXT_OF_JOBS)?;
        return Ok(statement.query_row((lane.name(), served, now, jobs), |row| row.get(0)).optional()?);
    }
    for bulk in [false, true] {
        let mut statement = book.tx.prepare_cached(NEXT)?;
        let found = statement.query_row((lane.name(), served, now, bulk), |row| row.get(0)).optional()?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// A worker whose lock file was taken away is off the list, and takes nothing more: others count it as dead.
fn assert_listed(connection: &Connection, shared: &Shared, worker: u128) -> Result<(), Fault> {
    let is_listed = connection.prepare_cached("SELECT 1 FROM workers WHERE id = ?1")?.exists([worker.to_be_bytes()])?;
    if is_listed { Ok(()) } else { Err(Fault::LockGone(locks::path(&shared.workers, worker))) }
}

struct Row {
    taken: i64,
    origin: i64,
    body: String,
    published_at: i64,
}

/// Takes the next message of a lane; one that was given out too often is set aside on the way.
fn take(
    book: &Book<'_>,
    returns: &Arc<Returns>,
    worker: u128,
    lane: Kind,
    only: Option<&str>,
) -> Result<Option<Received<Delivery>>, Fault> {
    assert_listed(book.tx, book.shared, worker)?;
    let served = served(book.tx, book.shared, worker)?;
    while let Some(id) = next(book, lane, &served, only)? {
        let row = book
            .tx
            .prepare_cached(
                "UPDATE messages SET taken_by = ?2, taken = taken + 1 WHERE id = ?1
                 RETURNING taken, origin, body, published_at",
            )?
            .query_row((id, worker.to_be_bytes()), |row| {
                Ok(Row { taken: row.get(0)?, origin: row.get(1)?, body: row.get(2)?, published_at: row.get(3)? })
            })?;
        let source = Source { lane, origin: dead_letters::origin(row.origin)? };
        if row.taken > i64::from(book.shared.options.delivery_limit) {
            settle::poison(book, id, worker, source, &row.body)?;
            continue;
        }
        let returns = Some(Arc::clone(returns));
        return Ok(Some(Received {
            delivery: Delivery { id, worker, taken: row.taken, taken_at: book.now, source, returns, was_seen: false },
            origin: source.origin,
            body: row.body,
            is_redelivered: row.taken > 1,
            is_spent: false,
            producer: None,
            message_id: None,
            published_at: Some(Moment::from_millis(row.published_at)),
            trace: None,
        }));
    }
    Ok(None)
}

impl Queue for Worker {
    type Delivery = Delivery;

    async fn receive(&self, lane: Kind) -> Result<Received<Delivery>, Unavailable> {
        let worker = self.id();
        loop {
            let changed = self.inner.shared.changed.notified();
            tokio::pin!(changed);
            // ORDER: listen before looking, or a message that comes in between is seen 50 ms late.
            changed.as_mut().enable();
            let only = self.own_jobs();
            let (due, now) = {
                let only = only.clone();
                self.look(move |connection, shared| {
                    assert_listed(connection, shared, worker)?;
                    let served = served(connection, shared, worker)?;
                    Ok((next_due(connection, lane, &served, only.as_deref())?, shared.now(connection)?))
                })
                .await?
            };
            if due.is_some_and(|due| due <= now) {
                let returns = Arc::clone(&self.inner.returns);
                let taken = self.write(move |book| take(book, &returns, worker, lane, only.as_deref())).await?;
                if let Some(mut received) = taken {
                    received.delivery.was_seen = true;
                    return Ok(received);
                }
            }
            let until_due = due.map_or(Duration::MAX, |due| due.since(now)).max(Duration::from_millis(1));
            let wait = until_due.min(self.inner.shared.options.sweep);
            // Either way: look again.
            drop(tokio::time::timeout(wait, changed).await);
        }
    }

    async fn settle(
        &self,
        delivery: Delivery,
        job: Option<&JobKey>,
        settlement: Settlement,
    ) -> Result<Settled, Unavailable> {
        let job = job.cloned();
        let shared = Arc::clone(&self.inner.shared);
        let settled = self.inner.writer.run(move |connection| {
            // An error drops the delivery: the message is given back and comes again.
            let settled =
                shared.write(connection, |book| settle::settle(book, &delivery, job.as_ref(), &settlement))?;
            delivery.forget();
            Ok(settled)
        });
        Ok(settled.await?)
    }
}

/// Tickets of an account on the lane for polls.
pub(super) fn polls(connection: &Connection, account: &str) -> Result<i64, Fault> {
    Ok(connection
        .prepare_cached("SELECT count(*) FROM messages WHERE account = ?1 AND lane = ?2")?
        .query_row((account, Kind::StatusPoll.name()), |row| row.get(0))?)
}

/// Takes a delivery out of the queue for good; false when it is no longer the taker's.
pub(super) fn remove(book: &Book<'_>, delivery: &Delivery) -> Result<bool, Fault> {
    let gone = book
        .tx
        .prepare_cached("DELETE FROM messages WHERE id = ?1 AND taken_by = ?2 AND taken = ?3")?
        .execute((delivery.id, delivery.worker.to_be_bytes(), int(delivery.taken)))?;
    Ok(gone > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::schema;

    #[test]
    fn no_look_for_a_message_reads_the_table() {
        let connection = Connection::open_in_memory().unwrap();
        schema::migrate(&connection).unwrap();
        for sql in [SERVED, NEXT_DUE, NEXT_DUE_OF_JOBS, NEXT, NEXT_OF_JOBS] {
            let plan = schema::plan(&connection, sql);
            let of_messages = || plan.iter().filter(|line| line.contains(" messages") || line.contains(" m "));
            assert!(of_messages().count() > 0, "{plan:#?}");
            assert!(of_messages().all(|line| line.starts_with("SEARCH")), "{sql}: {plan:#?}");
        }
        // By lane, account, importance and due, not by a part of them.
        for (sql, search) in [
            (NEXT_DUE, "messages_ready (lane=? AND taken_by=? AND account=? AND bulk=?)"),
            (NEXT, "messages_ready (lane=? AND taken_by=? AND account=? AND bulk=? AND due<?)"),
        ] {
            let plan = schema::plan(&connection, sql).join("\n");
            assert!(plan.contains(search), "{plan}");
        }
    }
}
