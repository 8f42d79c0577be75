//! One record per job, and its compare-and-swap.

use rusqlite::{Connection, OptionalExtension};

use super::{
    Worker, count,
    error::Fault,
    file::{self, Book, Shared},
    jobs, locks,
};
use crate::{
    domain::{
        claim::{Epoch, Loaded, Wish},
        event::End,
        ids::JobKey,
        plan::JobRecord,
        ticket::StepResult,
        time::Moment,
    },
    engine::ports::{Memory, Swapped, Unavailable},
};

/// What memory knows of a job.
pub(super) type Known = Loaded<StepResult, End>;

/// What memory knows of nothing: for a message that never became a job.
pub(super) fn nothing(connection: &Connection, now: Moment) -> Result<Known, Fault> {
    Ok(Loaded { record: None, version: 0, birth: file::birth(connection)?, now, holder_lives: false })
}

/// What memory knows of a job.
///
/// The holder of its record lives while a message of the job is in the hands of the holder's worker, without a gap since
/// the claim ([`left`]), and that worker's lock is held.
pub(super) fn load(connection: &Connection, shared: &Shared, job: &JobKey, now: Moment) -> Result<Known, Fault> {
    let mut known = nothing(connection, now)?;
    let row: Option<(i64, Option<String>, bool)> = connection
        .prepare_cached("SELECT version, record, holder_gone FROM jobs WHERE job = ?1")?
        .query_row([job.to_string()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((version, record, is_gone)) = row else { return Ok(known) };
    known.version = count(version);
    known.record = record.map(|record| read(&record)).transpose()?;
    if let Some(holder) = known.record.as_ref().and_then(|record| record.holder) {
        let worker = holder.claimant.worker;
        known.holder_lives = !is_gone && is_at_work(connection, job, worker)? && locks::lives(&shared.workers, worker);
    }
    Ok(known)
}

fn read(record: &str) -> Result<JobRecord, Fault> {
    serde_json::from_str(record).map_err(Fault::unreadable("job record"))
}

/// Has this worker taken a message of the job that it has not settled?
fn is_at_work(connection: &Connection, job: &JobKey, worker: u128) -> Result<bool, Fault> {
    let found = connection
        .prepare_cached("SELECT 1 FROM messages WHERE job = ?1 AND taken_by = ?2 LIMIT 1")?
        .exists((job.to_string(), worker.to_be_bytes()))?;
    Ok(found)
}

/// A message of the job has left a worker's hands: settled, or dropped by a panic. With the last one the worker's claim of
/// the job is over, also when the same worker takes the message again a moment later.
///
/// Two messages of one job in one worker's hands keep each other's claim alive: nothing tells which of them claimed. That
/// errs on the side of waiting, and ends when both have been parked.
pub(super) fn left(book: &Book<'_>, job: &str, worker: u128) -> Result<(), Fault> {
    book.tx
        .prepare_cached(
            "UPDATE jobs SET holder_gone = 1 WHERE job = ?1 AND holder = ?2
                AND NOT EXISTS (SELECT 1 FROM messages WHERE job = ?1 AND taken_by = ?2)",
        )?
        .execute((job, worker.to_be_bytes()))?;
    Ok(())
}

/// Writes a record over the version that the caller has loaded in this very transaction.
pub(super) fn write(book: &Book<'_>, job: &JobKey, record: &JobRecord) -> Result<(), Fault> {
    let text = serde_json::to_string(record).map_err(Fault::unreadable("job record"))?;
    let ended = record.end.as_ref().map(|end| end.name.event().as_str());
    let ended_at = record.end.as_ref().map(|end| end.at.as_millis());
    let wish_at = record.wish.map(|wish| wish.at.as_millis());
    let place = record.place;
    book.tx
        .prepare_cached(
            "INSERT INTO jobs (job, account, hash, accepted_at, touched_at, generation, step, try, is_claimed,
                               wish_at, ended, ended_at, version, record, holder)
             VALUES (?1, ?2, ?3, ?4, ?4, ?5, ?6, ?7, 1, ?8, ?9, ?10, 1, ?11, ?12)
             ON CONFLICT (job) DO UPDATE SET
                 touched_at = ?4, generation = ?5, step = ?6, try = ?7, is_claimed = 1,
                 wish_at = ?8, ended = ?9, ended_at = ?10, version = version + 1, record = ?11,
                 holder = ?12, holder_gone = 0",
        )?
        .execute(rusqlite::params![
            job.to_string(),
            job.account.as_str(),
            record.hash.to_string(),
            book.now.as_millis(),
            place.generation,
            place.step,
            place.r#try,
            wish_at,
            ended,
            ended_at,
            text,
            record.holder.map(|holder| holder.claimant.worker.to_be_bytes()),
        ])?;
    if place.generation > 1 {
        // A later generation runs: what an earlier one left in the dead letters can no longer be replayed.
        book.tx
            .prepare_cached("DELETE FROM dead_letters WHERE job = ?1 AND is_end = 1 AND generation < ?2")?
            .execute((job.to_string(), place.generation))?;
    }
    if let Some(end) = &record.end {
        jobs::saw(book, &end.ticket)?;
        book.tx.prepare_cached("DELETE FROM transfers WHERE job = ?1")?.execute([job.to_string()])?;
    }
    Ok(())
}

fn swap(book: &Book<'_>, job: &JobKey, epoch: Epoch, version: u64, record: &JobRecord) -> Result<Swapped, Fault> {
    let loaded = load(book.tx, book.shared, job, book.now)?;
    if loaded.birth.epoch != epoch || loaded.version != version {
        return Ok(Swapped::Refused(Box::new(loaded)));
    }
    if let Some(wished) = first_claim_of_a_wish(book, &loaded, job, record)? {
        write(book, job, &wished)?;
        return Ok(Swapped::Refused(Box::new(load(book.tx, book.shared, job, book.now)?)));
    }
    write(book, job, record)?;
    Ok(Swapped::Done)
}

/// Somebody wished a generation cancelled before anybody had claimed it. Its first claim finds the wish: the record that
/// the claim decided on is written, let go and with the wish in it, and the swap is refused, as if an earlier claim and the
/// wish had come just before. The claim decides again, takes the same place, and sees the wish before any call.
fn first_claim_of_a_wish(
    book: &Book<'_>,
    loaded: &Known,
    job: &JobKey,
    record: &JobRecord,
) -> Result<Option<JobRecord>, Fault> {
    let is_first = loaded.known().is_none_or(|known| known.place.generation < record.place.generation);
    if !is_first || record.end.is_some() || record.wish.is_some() {
        return Ok(None);
    }
    let found = book
        .tx
        .prepare_cached("DELETE FROM controls WHERE job = ?1 AND generation = ?2 AND until > ?3")?
        .execute((job.to_string(), record.place.generation, book.now.as_millis()))?;
    Ok((found > 0).then(|| JobRecord { holder: None, wish: Some(Wish { at: book.now }), ..record.clone() }))
}

impl Memory for Worker {
    /// The kernel tells at once when a holder dies, so its lease does not count.
    fn busy_until(&self, _: Moment, now: Moment) -> Moment {
        now
    }

    async fn load(&self, job: &JobKey) -> Result<Known, Unavailable> {
        let job = job.clone();
        Ok(self.look(move |connection, shared| load(connection, shared, &job, shared.now(connection)?)).await?)
    }

    async fn swap(&self, job: &JobKey, epoch: Epoch, version: u64, record: &JobRecord) -> Result<Swapped, Unavailable> {
        let (job, record) = (job.clone(), record.clone());
        Ok(self.write(move |book| swap(book, &job, epoch, version, &record)).await?)
    }
}
