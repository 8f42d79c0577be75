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

/// Of one job, by its index.
const OF_JOB: &str = "
SELECT number, body FROM events
 WHERE job = :job AND number > :after AND (:account IS NULL OR account = :account) AND (:name IS NULL OR name = :name)
 ORDER BY number LIMIT :limit";

/// Of all jobs, from a number on.
const OF_ALL: &str = "
SELECT number, body FROM events
 WHERE number > :after AND (:account IS NULL OR account = :account) AND (:name IS NULL OR name = :name)
 ORDER BY number LIMIT :limit";

impl Embedded {
    /// The events behind the number `after`, oldest first, each with its number. Ask again with the last one to follow.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn events(&self, after: u64, filter: EventFilter) -> Result<Vec<(u64, Event)>, Error> {
        self.page(move |connection, _| {
            let (after, job) = (int(after), filter.job.as_ref().map(ToString::to_string));
            let account = filter.account.as_ref().map(AccountName::as_str);
            let name = filter.name.map(Name::as_str);
            let limit = if filter.limit == 0 { 1_000 } else { filter.limit };
            let mut statement = connection.prepare_cached(if job.is_some() { OF_JOB } else { OF_ALL })?;
            let bound = named_params! { ":after": after, ":account": account, ":name": name, ":limit": limit };
            for (parameter, value) in bound {
                let index = statement.parameter_index(parameter)?.unwrap_or_default();
                statement.raw_bind_parameter(index, value)?;
            }
            if let (Some(job), Some(index)) = (job, statement.parameter_index(":job")?) {
                statement.raw_bind_parameter(index, job)?;
            }
            let rows = statement.raw_query().mapped(|row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)));
            rows.map(|row| {
                let (number, body) = row?;
                Ok((count(number), serde_json::from_str(&body).map_err(Fault::unreadable("event"))?))
            })
            .collect()
        })
        .await
    }

    /// The number of the newest event; 0 when there is none.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn last_event(&self) -> Result<u64, Error> {
        self.page(|connection, _| {
            let number: Option<i64> = connection.query_row("SELECT max(number) FROM events", [], |row| row.get(0))?;
            Ok(number.map_or(0, count))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::schema;

    #[test]
    fn events_of_a_job_are_read_by_its_index_and_others_from_their_number_on() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        schema::migrate(&connection).unwrap();
        for (sql, search) in [(OF_JOB, "events_job (job=? AND number>?)"), (OF_ALL, "PRIMARY KEY (rowid>?)")] {
            let plan = schema::plan(&connection, sql).join("; ");
            assert!(plan.contains(search) && !plan.contains("TEMP B-TREE"), "{plan}");
        }
    }
}
