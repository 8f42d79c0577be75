//! What is set aside for a person: tickets of jobs that ended other than completed, and messages that never were jobs.

use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::{Embedded, Error, count, error::Fault, file::Book, int, jobs};
use crate::{
    domain::{
        dead_letter::{DeadLetter, DeadLetters},
        event::{Class, End},
        ids::AccountName,
        settlement::SetAside,
        step::Kind,
        time::Moment,
    },
    engine::ports::Origin,
};

/// The lane and the origin of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    pub(super) lane: Kind,
    pub(super) origin: Origin,
}

pub(super) const fn origin_number(origin: Origin) -> i64 {
    match origin {
        Origin::Producer => 0,
        Origin::Accepted => 1,
        Origin::Return => 2,
    }
}

pub(super) fn origin(number: i64) -> Result<Origin, Fault> {
    match number {
        0 => Ok(Origin::Producer),
        1 => Ok(Origin::Accepted),
        2 => Ok(Origin::Return),
        other => Err(Fault::Unreadable { what: "message", why: format!("there is no origin {other}") }),
    }
}

pub(super) fn lane(name: &str) -> Result<Kind, Fault> {
    name.parse().map_err(|why| Fault::Unreadable { what: "lane", why })
}

/// Sets the ticket of an end aside, unless it lies there already.
pub(super) fn bury(book: &Book<'_>, end: &End) -> Result<(), Fault> {
    let key = end.ticket.key();
    let body = serde_json::to_string(end).map_err(Fault::unreadable("end"))?;
    book.tx
        .prepare_cached(
            "INSERT OR IGNORE INTO dead_letters
                 (is_end, job, account, generation, at, class, fingerprint, message, lane, origin, body)
             VALUES (1, :job, :account, :generation, :at, :class, :fingerprint, :message, :lane, :origin, :body)",
        )?
        .execute(named_params! {
            ":job": key.to_string(),
            ":account": key.account.as_str(),
            ":generation": end.ticket.place.generation,
            ":at": book.now.as_millis(),
            ":class": end.class().as_str(),
            ":fingerprint": end.fingerprint(),
            ":message": end.message(),
            ":lane": end.ticket.lane().name(),
            ":origin": origin_number(Origin::Return),
            ":body": body,
        })?;
    Ok(())
}

/// Sets a message aside that never became a job.
pub(super) fn set_aside(book: &Book<'_>, source: Source, letter: &SetAside) -> Result<(), Fault> {
    book.tx
        .prepare_cached(
            "INSERT INTO dead_letters (is_end, job, account, at, class, fingerprint, message, lane, origin, body)
             VALUES (0, :job, :account, :at, :class, :fingerprint, :message, :lane, :origin, :body)",
        )?
        .execute(named_params! {
            ":job": letter.job.as_ref().map(ToString::to_string),
            ":account": letter.job.as_ref().map(|job| job.account.as_str()),
            ":at": book.now.as_millis(),
            ":class": letter.class.as_str(),
            ":fingerprint": letter.fingerprint,
            ":message": letter.message,
            ":lane": source.lane.name(),
            ":origin": origin_number(source.origin),
            ":body": letter.body,
        })?;
    Ok(())
}

const COLUMNS: &str = "SELECT id, is_end, job, at, class, fingerprint, message, body FROM dead_letters";

fn read(row: &Row<'_>) -> Result<DeadLetter, Fault> {
    let body: String = row.get("body")?;
    let is_end: bool = row.get("is_end")?;
    let class: String = row.get("class")?;
    let end = if is_end { Some(serde_json::from_str(&body).map_err(Fault::unreadable("dead letter"))?) } else { None };
    Ok(DeadLetter {
        id: count(row.get("id")?),
        job: row.get::<_, Option<String>>("job")?.as_deref().and_then(jobs::parse_key),
        at: Moment::from_millis(row.get("at")?),
        class: serde_json::from_value(class.into()).map_err(Fault::unreadable("dead letter"))?,
        fingerprint: row.get("fingerprint")?,
        message: row.get("message")?,
        end,
        body: (!is_end).then_some(body),
    })
}

/// The dead letter with this number, and where its message came from.
pub(super) fn find(connection: &Connection, id: u64) -> Result<Option<(DeadLetter, Source)>, Fault> {
    let found = connection
        .prepare_cached(
            "SELECT id, is_end, job, at, class, fingerprint, message, body, lane, origin FROM dead_letters WHERE id = ?1",
        )?
        .query_row([int(id)], |row| {
            Ok((read(row), row.get::<_, String>("lane")?, row.get::<_, i64>("origin")?))
        })
        .optional()?;
    let Some((letter, name, number)) = found else { return Ok(None) };
    Ok(Some((letter?, Source { lane: lane(&name)?, origin: origin(number)? })))
}

impl Embedded {
    /// The dead letters that pass the filter, newest first.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn dead_letters(&self, filter: DeadLetters) -> Result<Vec<DeadLetter>, Error> {
        self.page(move |connection, _| {
            let mut statement = connection.prepare_cached(&format!(
                "{COLUMNS}
                  WHERE (:class IS NULL OR class = :class) AND (:account IS NULL OR account = :account)
                    AND (:job IS NULL OR job = :job) AND (:before IS NULL OR id < :before)
                  ORDER BY id DESC LIMIT :limit"
            ))?;
            let rows = statement.query_map(
                named_params! {
                    ":class": filter.class.map(Class::as_str),
                    ":account": filter.account.as_ref().map(AccountName::as_str),
                    ":job": filter.job.as_ref().map(ToString::to_string),
                    ":before": filter.before.map(int),
                    ":limit": if filter.limit == 0 { 100 } else { filter.limit },
                },
                |row| Ok(read(row)),
            )?;
            rows.map(|row| row?).collect()
        })
        .await
    }

    /// The dead letter with this number.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn dead_letter(&self, id: u64) -> Result<Option<DeadLetter>, Error> {
        let found = self.page(move |connection, _| find(connection, id)).await?;
        Ok(found.map(|(letter, _)| letter))
    }

    /// How many dead letters there are of each fingerprint, most first.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn dead_letter_counts(&self) -> Result<Vec<(String, u64)>, Error> {
        self.page(|connection, _| {
            let mut statement = connection.prepare_cached(
                "SELECT fingerprint, count(*) AS n FROM dead_letters GROUP BY fingerprint ORDER BY n DESC, fingerprint",
            )?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, count(row.get(1)?))))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Throws a dead letter away for good; false when there is none of this number.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn discard(&self, id: u64) -> Result<bool, Error> {
        self.write(move |book| Ok(book.tx.execute("DELETE FROM dead_letters WHERE id = ?1", [int(id)])? > 0)).await
    }
}
