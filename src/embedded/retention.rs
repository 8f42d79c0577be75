//! Throws away what has grown old, in small batches, so that no job waits for it.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use super::{Embedded, Error, Inner, error::Fault, file::Book};

/// How many rows one batch has thrown away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Jobs that ended, or whose ticket is gone.
    pub jobs: usize,
    /// Events.
    pub events: usize,
    /// Dead letters.
    pub dead_letters: usize,
    /// Turns, owners, listings, tokens and the like.
    pub others: usize,
    /// A table had more than one batch holds.
    pub has_more: bool,
}

/// One batch of each table.
fn tidy(book: &Book<'_>) -> Result<Tidied, Fault> {
    let batch = book.shared.options.retention_batch;
    let old = book.now.before(book.shared.options.retention).as_millis();
    let now = book.now.as_millis();
    let listings = book.now.before(book.shared.options.listing_for.saturating_mul(3)).as_millis();
    let leave =
        |sql: &str, until: i64| -> Result<usize, Fault> { Ok(book.tx.prepare_cached(sql)?.execute((until, batch))?) };
    let jobs = leave(
        "DELETE FROM jobs WHERE job IN (
             SELECT j.job FROM jobs j WHERE j.touched_at < ?1
                AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.job = j.job) LIMIT ?2)",
        old,
    )?;
    let events = leave("DELETE FROM events WHERE number IN (SELECT number FROM events WHERE time < ?1 LIMIT ?2)", old)?;
    let dead_letters =
        leave("DELETE FROM dead_letters WHERE id IN (SELECT id FROM dead_letters WHERE at < ?1 LIMIT ?2)", old)?;
    let mut others = [0; 7];
    let rest = [
        (
            "DELETE FROM owners WHERE (account, product) IN
              (SELECT account, product FROM owners WHERE touched_at < ?1 LIMIT ?2)",
            old,
        ),
        ("DELETE FROM transfers WHERE job IN (SELECT job FROM transfers WHERE at < ?1 LIMIT ?2)", old),
        // Long after nobody may read it: whoever was told that it is whole reads it within moments.
        (
            "DELETE FROM listings WHERE id IN (SELECT id FROM listings
              WHERE coalesce(whole_at, lease_until, started_at) < ?1 LIMIT ?2)",
            listings,
        ),
        // One that ran out is still proof for its own job, see `turns`.
        ("DELETE FROM turns WHERE key IN (SELECT key FROM turns WHERE taken_at < ?1 LIMIT ?2)", old),
        ("DELETE FROM tokens WHERE key IN (SELECT key FROM tokens WHERE expires < ?1 LIMIT ?2)", now),
        ("DELETE FROM token_leases WHERE key IN (SELECT key FROM token_leases WHERE until < ?1 LIMIT ?2)", now),
        ("DELETE FROM controls WHERE job IN (SELECT job FROM controls WHERE until < ?1 LIMIT ?2)", now),
    ];
    for (count, (sql, until)) in others.iter_mut().zip(rest) {
        *count = leave(sql, until)?;
    }
    let full = usize::try_from(batch).unwrap_or(usize::MAX);
    let has_more = others.iter().chain([&jobs, &events, &dead_letters]).any(|count| *count >= full);
    Ok(Tidied { jobs, events, dead_letters, others: others.iter().sum(), has_more })
}

/// Begins to tidy up: a batch, and another behind whatever waits by then, until nothing old is left.
pub(super) fn start(inner: &Arc<Inner>) {
    offer(Arc::downgrade(inner));
}

fn offer(home: Weak<Inner>) {
    let Some(inner) = home.upgrade() else { return };
    let shared = Arc::clone(&inner.shared);
    // A full line drops the task; the next round is a minute away.
    let _is_taken = inner.writer.offer(Box::new(move |connection| {
        let tidied = shared.write(connection, tidy).and_then(|tidied| {
            if tidied.jobs + tidied.events + tidied.dead_letters > 0 {
                connection.execute_batch("PRAGMA incremental_vacuum(200)")?;
            }
            Ok(tidied)
        });
        match tidied {
            Ok(tidied) if tidied.has_more => offer(home),
            Ok(_) => {}
            Err(fault) => {
                let error = fault.at(&shared.file);
                tracing::warn!(%error, "old jobs and events stay for now");
            }
        }
    }));
}

impl Embedded {
    /// Throws one batch of old rows away: at most [`super::Options::retention_batch`] of each table. Workers do it once a minute by themselves.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn tidy(&self) -> Result<Tidied, Error> {
        self.write(tidy).await
    }

    /// How long ended jobs, events and dead letters stay.
    #[must_use]
    pub fn retention(&self) -> Duration {
        self.inner.shared.options.retention
    }
}
