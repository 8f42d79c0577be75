//! Events, in the order in which they were written. A repeat of one is the same event: the first stays.

use rusqlite::named_params;

use super::{Embedded, Error, count, error::Fault, file::Book, int};
use crate::domain::{
    event::{Event, Name},
    ids::{AccountName, JobKey},
};

/// Which events to read.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Only of this job.
    pub job: Option<JobKey>,
    /// Only of this account.
    pub account: Option<AccountName>,
    /// Only of this name.
    pub name: Option<Name>,
    /// At most so many; 0 for 1,000.
    pub limit: u32,
}

/// Writes an event down, unless its id is there already.
pub(super) fn announce(book: &Book<'_>, event: &Event) -> Result<(), Fault> {
    let body = serde_json::to_string(event).map_err(Fault::unreadable("event"))?;
    book.tx
        .prepare_cached(
            "INSERT OR IGNORE INTO events (id, job, account, name, time, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute((
            event.id.to_string(),
            event.job.to_string(),
            event.job.account.as_str(),
            event.name.as_str(),
            event.time.as_millis(),
            body,
        ))?;
    Ok(())
}

impl Embedded {
    /// The events behind the number `after`, oldest first, each with its number. Ask again with the last one to follow.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn events(&self, after: u64, filter: EventFilter) -> Result<Vec<(u64, Event)>, Error> {
        self.page(move |connection, _| {
            let mut statement = connection.prepare_cached(
                "SELECT number, body FROM events
                  WHERE number > :after AND (:job IS NULL OR job = :job) AND (:account IS NULL OR account = :account)
                    AND (:name IS NULL OR name = :name)
                  ORDER BY number LIMIT :limit",
            )?;
            let rows = statement.query_map(
                named_params! {
                    ":after": int(after),
                    ":job": filter.job.as_ref().map(ToString::to_string),
                    ":account": filter.account.as_ref().map(AccountName::as_str),
                    ":name": filter.name.map(Name::as_str),
                    ":limit": if filter.limit == 0 { 1_000 } else { filter.limit },
                },
                |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)),
            )?;
            rows.map(|row| {
                let (number, body) = row?;
                Ok((count(number), serde_json::from_str(&body).map_err(Fault::unreadable("event"))?))
            })
            .collect()
        })
        .await
    }
}
