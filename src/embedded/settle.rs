//! The end of a step: record, events, next ticket or dead letter, the delivery, letting go, in one transaction.
//!
//! What is written is decided by [`resolve`], the same for all homes. Two ways lead to [`Settled::Lost`]:
//!
//! - Another claim holds the record: nothing is announced, the own ticket goes back, marked, and the delivery is gone.
//! - The delivery itself is no longer ours: this worker was taken for dead (its lock file was removed under it) and the
//!   message was given back, perhaps to somebody else. Then **nothing** is written. The message still is in the queue, so
//!   publishing the own ticket would make two of it; and what the call has shown is found by the next claim's look, since
//!   `begin` left its mark before the call. Only the file's own transaction decides this, never a clock.

use rusqlite::OptionalExtension;

use super::{
    dead_letters::{self, Source},
    error::Fault,
    events,
    file::Book,
    jobs, memory,
    queue::{self, Delivery},
};
use crate::{
    domain::{
        claim::{Arrival, Claim, Claimant, claim},
        event::{Class, End, EndName, Reason},
        ids::JobKey,
        settlement::{Entry, Next, SetAside, Settlement, Writes, resolve},
        ticket::Ticket,
        time::Moment,
    },
    engine::ports::{Origin, Settled},
};

/// Settles a delivery.
pub(super) fn settle(
    book: &Book<'_>,
    delivery: &Delivery,
    job: Option<&JobKey>,
    settlement: &Settlement,
) -> Result<Settled, Fault> {
    if !queue::remove(book, delivery)? {
        return Ok(Settled::Lost);
    }
    let loaded = match job {
        Some(job) => memory::load(book.tx, book.shared, job, book.now)?,
        None => memory::nothing(book.tx, book.now)?,
    };
    let mut writes = resolve(&loaded, settlement);
    if let (Some(job), Next::Ticket(ticket)) = (job, &mut writes.next)
        && let Some(record) = writes.record.as_ref().or(writes.release.as_ref()).or(loaded.known())
        && !record.needs_look()
        && was_wished_since(book, job, delivery)?
    {
        // A wish wakes a parked job; this one was at work when it came, and has not seen it.
        ticket.due = ticket.due.map(|due| due.min(book.now));
    }
    perform(book, job, delivery.source, &writes)?;
    if let Some(job) = job {
        memory::left(book, &job.to_string(), delivery.worker)?;
    }
    Ok(if writes.is_lost { Settled::Lost } else { Settled::Done })
}

/// Did somebody wish the job cancelled since this delivery was given out? An earlier wish was before the claim's eyes: what
/// it parked all the same, it parked knowingly.
fn was_wished_since(book: &Book<'_>, job: &JobKey, delivery: &Delivery) -> Result<bool, Fault> {
    let wish_at: Option<i64> = book
        .tx
        .prepare_cached("SELECT wish_at FROM jobs WHERE job = ?1")?
        .query_row([job.to_string()], |row| row.get(0))
        .optional()?
        .flatten();
    Ok(wish_at.is_some_and(|at| Moment::from_millis(at) >= delivery.taken_at))
}

fn perform(book: &Book<'_>, job: Option<&JobKey>, source: Source, writes: &Writes) -> Result<(), Fault> {
    if let (Some(job), Some(record)) = (job, &writes.record) {
        memory::write(book, job, record)?;
    }
    for event in &writes.events {
        events::announce(book, event)?;
    }
    if let Some(end) = &writes.set_aside {
        dead_letters::bury(book, end)?;
    }
    match &writes.next {
        Next::Nothing => {}
        Next::Ticket(ticket) => {
            queue::put_ticket(book, Origin::Return, ticket)?;
            if !writes.is_lost {
                jobs::saw(book, ticket)?;
            }
        }
        Next::Raw { body, due } => {
            queue::put(book, &queue::Message { source, bulk: false, due: *due, job, body })?;
        }
        Next::SetAside(letter) => dead_letters::set_aside(book, source, letter)?,
    }
    if let (Some(job), Some(record)) = (job, &writes.release) {
        memory::write(book, job, record)?;
    }
    Ok(())
}

/// Ends what was given out too often and never settled: it breaks its workers. A job ends like any other, by a claim, a
/// recorded end and its event; what is no ticket goes to the dead letters as it is.
pub(super) fn poison(book: &Book<'_>, id: i64, worker: u128, source: Source, body: &str) -> Result<(), Fault> {
    let message = format!("it was given out {} times and never settled", book.shared.options.delivery_limit);
    book.tx.prepare_cached("DELETE FROM messages WHERE id = ?1")?.execute([id])?;
    let Ok(ticket) = serde_json::from_str::<Ticket>(body) else {
        let fingerprint = format!("{}/undelivered", Class::Poison);
        let (class, body) = (Class::Poison, body.to_owned());
        let letter = SetAside { job: None, class, fingerprint, message, trace: None, body };
        return dead_letters::set_aside(book, source, &letter);
    };
    let key = ticket.key();
    let claimant = Claimant { worker, number: u64::MAX };
    let arrival = Arrival { place: ticket.place, hash: ticket.hash, is_intake: false, is_suspect: true };
    let loaded = memory::load(book.tx, book.shared, &key, book.now)?;
    let entry = match claim(&loaded, &arrival, claimant, &book.shared.options.policy) {
        Claim::Take { record, .. } => {
            memory::write(book, &key, &record)?;
            Entry::End { end: Box::new(poisoned(book, &ticket, message)), result: None }
        }
        Claim::Ended { end, is_before } => Entry::EndAgain { end: Box::new(end), set_aside: !is_before },
        Claim::Busy { until } => {
            // The same place is in other hands: this copy waits for what becomes of it.
            let again = until.max(book.now.after(std::time::Duration::from_secs(1)));
            return queue::put_ticket(book, Origin::Return, &ticket.suspected(true).parked(again));
        }
        Claim::Stale | Claim::OtherContent => return Ok(()),
    };
    let settlement = Settlement {
        received: Some(Box::new(ticket)),
        claimant: Some(claimant),
        entry,
        events: Vec::new(),
        next: Next::Nothing,
    };
    let loaded = memory::load(book.tx, book.shared, &key, book.now)?;
    perform(book, Some(&key), source, &resolve(&loaded, &settlement))
}

fn poisoned(book: &Book<'_>, ticket: &Ticket, message: String) -> End {
    let mut last = ticket.clone();
    last.note(book.now, message.clone());
    End {
        name: EndName::DeadLettered,
        at: book.now,
        reason: Some(Reason {
            class: Class::Poison,
            message,
            next: format!("read the workers' logs for {}, then `longshore dead-letter replay`", ticket.key()),
            step: ticket.step(),
            cause: None,
            candidates: Vec::new(),
        }),
        ticket: Box::new(last),
    }
}
