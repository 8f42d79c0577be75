//! What people are shown of jobs: one row each, written with everything that happens to the job.

use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::{
    Embedded, Error, count,
    error::Fault,
    file::{Book, Shared},
    int, locks, memory,
};
use crate::domain::{
    ids::{AccountName, JobId, JobKey},
    step::{Kind, Place},
    ticket::Ticket,
    time::Moment,
    view::{JobFilter, JobSummary, JobView, State, Transfer},
};

/// Keeps what a ticket tells about its job; a ticket of an earlier place tells nothing about where it stands.
pub(super) fn saw(book: &Book<'_>, ticket: &Ticket) -> Result<(), Fault> {
    let key = ticket.key();
    let labels = serde_json::to_string(&ticket.job.labels).map_err(Fault::unreadable("label"))?;
    let Place { generation, step, r#try } = ticket.place;
    book.tx
        .prepare_cached(
            "INSERT INTO jobs (job, account, kind, hash, labels, accepted_at, deadline, touched_at,
                               generation, step, try, product_id, submission_id)
             VALUES (:job, :account, :kind, :hash, :labels, :accepted_at, :deadline, :now,
                     :generation, :step, :try, :product, :submission)
             ON CONFLICT (job) DO UPDATE SET
                 kind = :kind, labels = :labels, accepted_at = :accepted_at, deadline = :deadline, touched_at = :now,
                 product_id = coalesce(:product, product_id), submission_id = coalesce(:submission, submission_id),
                 generation = :generation, step = :step, try = :try
             WHERE (generation, step, try) <= (:generation, :step, :try)",
        )?
        .execute(named_params! {
            ":job": key.to_string(),
            ":account": key.account.as_str(),
            ":kind": ticket.job.kind.name(),
            ":hash": ticket.hash.to_string(),
            ":labels": labels,
            ":accepted_at": ticket.accepted_at.as_millis(),
            ":deadline": ticket.deadline.as_millis(),
            ":now": book.now.as_millis(),
            ":generation": generation,
            ":step": step,
            ":try": r#try,
            ":product": ticket.progress.product_id.map(|id| id.to_string()),
            ":submission": ticket.progress.submission_id.map(|id| id.to_string()),
        })?;
    Ok(())
}

/// Splits the text of a key; none for what is no key.
pub(super) fn parse_key(text: &str) -> Option<JobKey> {
    let (account, id) = text.split_once('/')?;
    Some(JobKey { account: AccountName::parse(account).ok()?, id: JobId::parse(id).ok()? })
}

/// What is shown of the jobs that pass a filter, newest first.
macro_rules! summaries {
    ($filter:literal, $rest:literal) => {
        concat!(
            "
WITH seen AS (
    SELECT j.*,
           CASE
               WHEN j.ended IS NOT NULL THEN j.ended
               WHEN j.wish_at IS NOT NULL THEN 'cancelling'
               WHEN EXISTS (SELECT 1 FROM messages m WHERE m.job = j.job AND m.taken_by IS NOT NULL
                            AND hex(m.taken_by) IN (SELECT value FROM json_each(:alive))) THEN 'running'
               WHEN j.is_claimed THEN 'waiting'
               ELSE 'accepted'
           END AS state
      FROM jobs j
     WHERE ",
            $filter,
            "
)
SELECT job, kind, labels, state, generation, step, try, accepted_at, deadline, touched_at, ended_at, product_id,
       submission_id, (SELECT min(m.due) FROM messages m WHERE m.job = seen.job AND m.taken_by IS NULL) AS next_due
  FROM seen ",
            $rest
        )
    };
}

const ONE: &str = summaries!("j.job = :job", "");

const LIST: &str = summaries!(
    "(:account IS NULL OR j.account = :account)
       AND (:kind IS NULL OR j.kind = :kind)
       AND (:before_at IS NULL OR (j.accepted_at, j.job) < (:before_at, :before_job))
       AND (:text IS NULL OR instr(lower(j.job || ' ' || j.labels || ' ' || coalesce(j.product_id, '') || ' '
                                         || coalesce(j.submission_id, '')), lower(:text)) > 0)
       AND (:label IS NULL OR EXISTS (SELECT 1 FROM json_each(j.labels) l WHERE l.key = :label AND l.value = :value))",
    "
 WHERE (:state IS NULL OR state = :state)
 ORDER BY accepted_at DESC, job DESC
 LIMIT :limit"
);

/// The jobs that pass the filter, newest first.
fn list(connection: &Connection, shared: &Shared, filter: &JobFilter) -> Result<Vec<JobSummary>, Fault> {
    let mut statement = connection.prepare_cached(LIST)?;
    let rows = statement.query_map(
        named_params! {
            ":alive": alive_list(connection, shared)?,
            ":account": filter.account.as_ref().map(AccountName::as_str),
            ":kind": filter.kind.map(Kind::name),
            ":before_at": filter.before.as_ref().map(|(at, _)| at.as_millis()),
            ":before_job": filter.before.as_ref().map(|(_, key)| key.to_string()),
            ":text": filter.text,
            ":label": filter.label.as_ref().map(|(name, _)| name),
            ":value": filter.label.as_ref().map(|(_, value)| value),
            ":state": filter.state.map(State::as_str),
            ":limit": if filter.limit == 0 { 100 } else { filter.limit },
        },
        |row| Ok(summary(row)),
    )?;
    rows.map(|row| row?).collect()
}

/// What a list shows of one job.
fn one(connection: &Connection, shared: &Shared, job: &JobKey) -> Result<Option<JobSummary>, Fault> {
    let mut statement = connection.prepare_cached(ONE)?;
    let alive = alive_list(connection, shared)?;
    let found = statement.query_row(named_params! { ":alive": alive, ":job": job.to_string() }, |row| Ok(summary(row)));
    found.optional()?.transpose()
}

/// The ids of all workers that live, for SQL.
fn alive_list(connection: &Connection, shared: &Shared) -> Result<String, Fault> {
    let alive: Vec<String> = alive(connection, shared)?.into_iter().map(|id| format!("{id:032X}")).collect();
    Ok(serde_json::Value::from(alive).to_string())
}

/// All accounts that have jobs, one step of the index each, and the job of this id in each.
const NAMED: &str = "
WITH RECURSIVE present (account) AS (
    SELECT min(account) FROM jobs
    UNION ALL
    SELECT (SELECT min(j.account) FROM jobs j WHERE j.account > present.account)
      FROM present WHERE present.account IS NOT NULL
)
SELECT j.job FROM present CROSS JOIN jobs j ON j.job = present.account || '/' || ?1 ORDER BY present.account";

fn summary(row: &Row<'_>) -> Result<JobSummary, Fault> {
    let unreadable = |why: String| Fault::Unreadable { what: "job", why };
    let key: String = row.get("job")?;
    let labels: String = row.get("labels")?;
    let state: String = row.get("state")?;
    let kind: Option<String> = row.get("kind")?;
    let moment = |column: &str| row.get::<_, Option<i64>>(column).map(|at| at.map(Moment::from_millis));
    Ok(JobSummary {
        kind: kind.map(|kind| kind.parse()).transpose().map_err(unreadable)?,
        topic: None,
        labels: serde_json::from_str(&labels).map_err(Fault::unreadable("label"))?,
        state: state.parse().map_err(unreadable)?,
        place: Place { generation: row.get("generation")?, step: row.get("step")?, r#try: row.get("try")? },
        accepted_at: moment("accepted_at")?.unwrap_or_default(),
        deadline: moment("deadline")?,
        touched_at: moment("touched_at")?.unwrap_or_default(),
        ended_at: moment("ended_at")?,
        product_id: row.get("product_id")?,
        submission_id: row.get("submission_id")?,
        next_due: moment("next_due")?,
        key: parse_key(&key).ok_or_else(|| unreadable(format!("{key:?} is no key of a job")))?,
    })
}

/// The ids of all workers that live.
pub(super) fn alive(connection: &Connection, shared: &Shared) -> Result<Vec<u128>, Fault> {
    let mut statement = connection.prepare_cached("SELECT id FROM workers")?;
    let ids = statement.query_map([], |row| row.get::<_, [u8; 16]>(0))?.collect::<Result<Vec<_>, _>>()?;
    Ok(ids.into_iter().map(u128::from_be_bytes).filter(|id| locks::lives(&shared.workers, *id)).collect())
}

/// The job's ticket in the queue; of several the one of the latest place.
pub(super) fn queued(connection: &Connection, job: &JobKey) -> Result<Option<Ticket>, Fault> {
    let mut statement = connection.prepare_cached("SELECT body FROM messages WHERE job = ?1")?;
    let bodies = statement.query_map([job.to_string()], |row| row.get::<_, String>(0))?;
    let mut latest: Option<Ticket> = None;
    for body in bodies {
        // What cannot be read is the worker's to set aside.
        let Ok(ticket) = serde_json::from_str::<Ticket>(&body?) else { continue };
        if latest.as_ref().is_none_or(|known| known.place < ticket.place) {
            latest = Some(ticket);
        }
    }
    Ok(latest)
}

/// All that is known of one job.
pub(super) fn view(connection: &Connection, shared: &Shared, job: &JobKey) -> Result<Option<JobView>, Fault> {
    let Some(summary) = one(connection, shared, job)? else { return Ok(None) };
    let key = job.to_string();
    let (hash, wish_at): (String, Option<i64>) = connection
        .prepare_cached("SELECT hash, wish_at FROM jobs WHERE job = ?1")?
        .query_row([&key], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let known = memory::load(connection, shared, job, shared.now(connection)?)?;
    let transfer = connection
        .prepare_cached("SELECT done, total, at FROM transfers WHERE job = ?1")?
        .query_row([&key], |row| {
            Ok(Transfer { done: count(row.get(0)?), total: count(row.get(1)?), at: Moment::from_millis(row.get(2)?) })
        })
        .optional()?;
    let record = known.record.as_ref();
    let end = record.and_then(|record| record.end.clone()).filter(|_| summary.state.is_end());
    let ticket = queued(connection, job)?;
    Ok(Some(JobView {
        hash,
        ticket: ticket.or_else(|| end.as_ref().map(|end| (*end.ticket).clone())),
        holder: record.and_then(|r| r.holder).filter(|_| known.holder_lives).map(|holder| holder.claimant.worker),
        wish_at: wish_at.map(Moment::from_millis),
        doubt_since: known.known().filter(|r| r.needs_look()).and_then(|r| r.begun_at.or(r.suspect_since)),
        end,
        transfer,
        record: known.record,
        summary,
    }))
}

/// Notes how far a transfer has come.
pub(super) fn transferred(book: &Book<'_>, job: &JobKey, done: u64, total: u64) -> Result<(), Fault> {
    book.tx
        .prepare_cached(
            "INSERT INTO transfers (job, done, total, at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (job) DO UPDATE SET done = ?2, total = ?3, at = ?4",
        )?
        .execute((job.to_string(), int(done), int(total), book.now.as_millis()))?;
    Ok(())
}

impl Embedded {
    /// The jobs that pass the filter, newest first.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn jobs(&self, filter: JobFilter) -> Result<Vec<JobSummary>, Error> {
        self.page(move |connection, shared| list(connection, shared, &filter)).await
    }

    /// The jobs of this id, of whatever accounts.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn named(&self, id: &JobId) -> Result<Vec<JobKey>, Error> {
        let id = id.to_string();
        self.page(move |connection, _| {
            let mut statement = connection.prepare_cached(NAMED)?;
            let keys = statement.query_map([id], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
            Ok(keys.iter().filter_map(|key| parse_key(key)).collect())
        })
        .await
    }

    /// All that is known of one job; none when nobody knows it.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn job(&self, job: &JobKey) -> Result<Option<JobView>, Error> {
        let job = job.clone();
        self.page(move |connection, shared| view(connection, shared, &job)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::schema;

    #[test]
    fn one_job_is_looked_up_and_not_searched_for() {
        let connection = Connection::open_in_memory().unwrap();
        schema::migrate(&connection).unwrap();
        let plan = schema::plan(&connection, ONE);
        assert!(plan.iter().any(|line| line.starts_with("SEARCH j ") && line.contains("(job=?)")), "{plan:#?}");
        assert!(plan.iter().filter(|line| line.contains(" m ")).all(|line| line.contains("(job=?")), "{plan:#?}");
        let plan = schema::plan(&connection, NAMED);
        assert!(plan.iter().any(|line| line.starts_with("SEARCH j ") && line.contains("(job=?)")), "{plan:#?}");
        let reads = |line: &&String| line.starts_with("SCAN j ") || line.starts_with("SCAN jobs");
        assert!(!plan.iter().any(|line| reads(&line)), "{plan:#?}");
    }

    #[test]
    fn keys_read_as_they_are_written() {
        let key = parse_key("contoso/nic-4711").unwrap();
        assert_eq!(key.to_string(), "contoso/nic-4711");
        assert!(parse_key("contoso").is_none() && parse_key("Contoso/x").is_none());
    }
}
