//! What people do with jobs: hand them in, wish them cancelled, set them going again.

use rusqlite::OptionalExtension;

use super::{
    Embedded, Error, dead_letters,
    error::Fault,
    events,
    file::Book,
    int, jobs, memory,
    queue::{self, Message},
    quota,
};
use crate::{
    domain::{
        claim::{Wished, wish},
        event::{EndName, Event, Name},
        event_data,
        ids::{JobKey, Sha256},
        step::Kind,
        ticket::Ticket,
        time::Moment,
        view::{JobView, State},
    },
    engine::ports::Origin,
};

/// What became of a job that was handed in.
#[derive(Debug, Clone, PartialEq)]
pub enum Accepted {
    /// It is ours now.
    New,
    /// The same job is known already: this is how it stands.
    Same(Box<JobView>),
    /// The id stands for another content: refused.
    OtherContent {
        /// The hash of what the id stands for.
        known: Sha256,
    },
}

/// What became of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// The wish is written, or stood already. A parked ticket wakes now.
    Requested {
        /// The job is in doubt: it looks at this instant whether its last write has happened, then ends.
        looks_at: Option<Moment>,
    },
    /// The job has ended before.
    Ended(State),
    /// Nobody knows the job.
    Unknown,
}

/// What became of a job, or a dead letter, that was to run again.
#[derive(Debug, Clone, PartialEq)]
pub enum Replayed {
    /// This ticket is in the queue, one generation later.
    Ticket(Box<Ticket>),
    /// The message that never became a job is in the queue as it was.
    Message,
    /// The job has not ended: there is nothing to run again.
    NotEnded(State),
    /// It completed: there is nothing left to do.
    Completed,
    /// Nobody knows the job, or there is no such dead letter.
    Unknown,
}

fn accept(book: &Book<'_>, ticket: &Ticket) -> Result<Accepted, Fault> {
    let key = ticket.key();
    let known: Option<String> = book
        .tx
        .prepare_cached("SELECT hash FROM jobs WHERE job = ?1")?
        .query_row([key.to_string()], |row| row.get(0))
        .optional()?;
    if let Some(known) = known {
        let unreadable = |why: String| Fault::Unreadable { what: "hash", why };
        let known: Sha256 =
            known.parse().map_err(|error: crate::domain::ids::Malformed| unreadable(error.to_string()))?;
        if known != ticket.hash {
            return Ok(Accepted::OtherContent { known });
        }
        let view = jobs::view(book.tx, book.shared, &key)?;
        return view.map_or_else(
            || Err(unreadable(format!("the job {key} cannot be shown"))),
            |view| Ok(Accepted::Same(Box::new(view))),
        );
    }
    queue::put_ticket(book, Origin::Accepted, ticket)?;
    jobs::saw(book, ticket)?;
    announce_acceptance(book, ticket)?;
    Ok(Accepted::New)
}

fn announce_acceptance(book: &Book<'_>, ticket: &Ticket) -> Result<(), Fault> {
    let data = event_data::json(&event_data::Accepted::of(ticket));
    events::announce(book, &Event::of(ticket, Name::Accepted, 0, book.now, data))
}

fn cancel(book: &Book<'_>, job: &JobKey) -> Result<Cancelled, Fault> {
    let Some(view) = jobs::view(book.tx, book.shared, job)? else { return Ok(Cancelled::Unknown) };
    if view.state().is_end() {
        return Ok(Cancelled::Ended(view.state()));
    }
    let generation = view.summary.place.generation;
    let loaded = memory::load(book.tx, book.shared, job, book.now)?;
    match wish(&loaded, Some(generation)) {
        Wished::Write(record) => memory::write(book, job, &record)?,
        Wished::Stands => {}
        Wished::TooEarly | Wished::Void => {
            let until = view.summary.deadline.unwrap_or(book.now.after(book.shared.options.control_for));
            book.tx
                .prepare_cached(
                    "INSERT INTO controls (job, generation, until) VALUES (?1, ?2, ?3)
                     ON CONFLICT (job) DO UPDATE SET generation = ?2, until = ?3",
                )?
                .execute((job.to_string(), generation, until.as_millis()))?;
            book.tx
                .prepare_cached("UPDATE jobs SET wish_at = ?2 WHERE job = ?1")?
                .execute((job.to_string(), book.now.as_millis()))?;
        }
    }
    if view.doubt_since.is_some() {
        return Ok(Cancelled::Requested { looks_at: view.summary.next_due });
    }
    let woken = book
        .tx
        .prepare_cached("UPDATE messages SET due = ?2 WHERE job = ?1 AND due > ?2 AND taken_by IS NULL")?
        .execute((job.to_string(), book.now.as_millis()))?;
    book.wakes.set(book.wakes.get() || woken > 0);
    Ok(Cancelled::Requested { looks_at: None })
}

/// Has the job's parked tickets that wait for sign-in, and for nothing else, come now.
///
/// One in doubt keeps the time of its look, and while the service's own pause lasts everything keeps its time.
fn wake_signed_in(book: &Book<'_>, job: &JobKey) -> Result<bool, Fault> {
    let loaded = memory::load(book.tx, book.shared, job, book.now)?;
    let is_in_doubt = loaded.known().is_some_and(crate::domain::plan::JobRecord::needs_look);
    if is_in_doubt || quota::load(book.tx, job.account.as_str())?.paused_until() > book.now {
        return Ok(false);
    }
    let mut statement =
        book.tx.prepare_cached("SELECT id, body FROM messages WHERE job = ?1 AND taken_by IS NULL AND due > ?2")?;
    let parked = statement.query_map((job.to_string(), book.now.as_millis()), |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
    })?;
    let mut is_woken = false;
    for message in parked.collect::<Result<Vec<_>, _>>()? {
        let (id, body) = message;
        // What cannot be read is the worker's to set aside.
        if serde_json::from_str::<Ticket>(&body).is_ok_and(|ticket| ticket.sign_in.is_some()) {
            book.tx
                .prepare_cached("UPDATE messages SET due = ?2 WHERE id = ?1")?
                .execute((id, book.now.as_millis()))?;
            is_woken = true;
        }
    }
    book.wakes.set(book.wakes.get() || is_woken);
    Ok(is_woken)
}

fn replay(book: &Book<'_>, job: &JobKey, edit: &mut dyn FnMut(&mut Ticket)) -> Result<Replayed, Fault> {
    let Some(view) = jobs::view(book.tx, book.shared, job)? else { return Ok(Replayed::Unknown) };
    if !view.state().is_end() {
        return Ok(Replayed::NotEnded(view.state()));
    }
    let Some(end) = view.end else { return Ok(Replayed::Unknown) };
    if end.name == EndName::Completed {
        return Ok(Replayed::Completed);
    }
    let known = view.record.map_or(0, |record| record.place.generation);
    let mut ticket = end.ticket.retried(known, book.now);
    edit(&mut ticket);
    queue::put_ticket(book, Origin::Return, &ticket)?;
    jobs::saw(book, &ticket)?;
    let key = job.to_string();
    book.tx
        .prepare_cached("UPDATE jobs SET ended = NULL, ended_at = NULL, wish_at = NULL WHERE job = ?1")?
        .execute([&key])?;
    book.tx.prepare_cached("DELETE FROM dead_letters WHERE job = ?1 AND is_end = 1")?.execute([&key])?;
    announce_acceptance(book, &ticket)?;
    Ok(Replayed::Ticket(Box::new(ticket)))
}

/// Runs again what lies under this number: a job that is still known, a job that only its dead letter remembers, or a
/// message that never was a job.
fn replay_letter(book: &Book<'_>, id: u64, edit: &mut dyn FnMut(&mut Ticket)) -> Result<Replayed, Fault> {
    let Some((letter, source)) = dead_letters::find(book.tx, id)? else { return Ok(Replayed::Unknown) };
    if let (Some(job), Some(end)) = (&letter.job, letter.end) {
        match replay(book, job, edit)? {
            // The job's row is gone: a ticket with its generation raised is all there is, and its claim will look.
            Replayed::Unknown => {
                let mut ticket = end.ticket.retried(0, book.now);
                edit(&mut ticket);
                queue::put_ticket(book, Origin::Return, &ticket)?;
                jobs::saw(book, &ticket)?;
                book.tx.execute("DELETE FROM dead_letters WHERE id = ?1", [int(id)])?;
                return Ok(Replayed::Ticket(Box::new(ticket)));
            }
            other @ (Replayed::Ticket(_) | Replayed::Message | Replayed::NotEnded(_) | Replayed::Completed) => {
                return Ok(other);
            }
        }
    }
    let body = letter.body.unwrap_or_default();
    queue::put(book, &Message { source, bulk: false, due: book.now, job: letter.job.as_ref(), body: &body })?;
    book.tx.execute("DELETE FROM dead_letters WHERE id = ?1", [int(id)])?;
    Ok(Replayed::Message)
}

/// An edit that is made at most once.
fn once(edit: impl FnOnce(&mut Ticket)) -> impl FnMut(&mut Ticket) {
    let mut edit = Some(edit);
    move |ticket| {
        if let Some(edit) = edit.take() {
            edit(ticket);
        }
    }
}

impl Embedded {
    /// Takes a new job's ticket in: queue, status and `accepted` event at once. The same id again changes nothing.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn accept(&self, ticket: Ticket) -> Result<Accepted, Error> {
        self.write(move |book| accept(book, &ticket)).await
    }

    /// Puts a message into the queue as it is, for whoever has no ticket to accept.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn put(&self, lane: Kind, origin: Origin, body: String) -> Result<(), Error> {
        self.write(move |book| {
            let ticket = serde_json::from_str::<Ticket>(&body).ok();
            let key = ticket.as_ref().map(Ticket::key);
            let message = Message {
                source: dead_letters::Source { lane, origin },
                bulk: ticket.as_ref().is_some_and(|ticket| ticket.job.bulk),
                due: ticket.as_ref().and_then(|ticket| ticket.due).unwrap_or(book.now),
                job: key.as_ref(),
                body: &body,
            };
            queue::put(book, &message)
        })
        .await
    }

    /// Wishes a job cancelled. A parked ticket wakes now, unless the job is in doubt: then it keeps its look's time.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn wish_cancel(&self, job: &JobKey) -> Result<Cancelled, Error> {
        let job = job.clone();
        self.write(move |book| cancel(book, &job)).await
    }

    /// Somebody has mended, or wants to try again, an account's sign-in: the job's ticket that waits for sign-in alone is
    /// due now. Says whether there was one. A ticket in doubt, or of an account that the service asked to pause, keeps its
    /// time.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn wake_signed_in(&self, job: &JobKey) -> Result<bool, Error> {
        let job = job.clone();
        self.write(move |book| wake_signed_in(book, &job)).await
    }

    /// Runs a job again that ended other than completed: its last ticket, one generation later, as `edit` leaves it.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn replay(
        &self,
        job: &JobKey,
        edit: impl FnOnce(&mut Ticket) + Send + 'static,
    ) -> Result<Replayed, Error> {
        let job = job.clone();
        self.write(move |book| replay(book, &job, &mut once(edit))).await
    }

    /// Runs again what lies in the dead letters under this number.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn replay_letter(
        &self,
        id: u64,
        edit: impl FnOnce(&mut Ticket) + Send + 'static,
    ) -> Result<Replayed, Error> {
        self.write(move |book| replay_letter(book, id, &mut once(edit))).await
    }
}
