//! The tables, and how older files become new ones.
//!
//! `user_version` counts the steps below; each is applied once, in order, in one transaction. A step that was released
//! never changes: a new one is added behind it.

use rusqlite::Connection;

use super::error::Fault;

/// "LSHR": tells our files from those of other programs.
pub(super) const APPLICATION_ID: i64 = 0x4c53_4852;

/// All steps, oldest first.
const STEPS: [&str; 2] = [FIRST, SECOND];

/// The newest schema that this build knows.
pub(super) const KNOWN: i64 = 2;

const FIRST: &str = "
-- One row: the memory's life and its clock.
CREATE TABLE home (
    only_row   INTEGER PRIMARY KEY CHECK (only_row = 1),
    epoch      BLOB    NOT NULL CHECK (length(epoch) = 16),
    born_at    INTEGER NOT NULL,
    born_clean INTEGER NOT NULL,
    clock      INTEGER NOT NULL
) STRICT;

-- Processes that may hold messages; each has its lock file in workers/.
CREATE TABLE workers (
    id    BLOB    PRIMARY KEY CHECK (length(id) = 16),
    pid   INTEGER NOT NULL,
    since INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The queue. Numbers are never used twice: they name deliveries.
CREATE TABLE messages (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    lane         TEXT    NOT NULL,
    origin       INTEGER NOT NULL,
    bulk         INTEGER NOT NULL,
    due          INTEGER NOT NULL,
    taken_by     BLOB,
    taken        INTEGER NOT NULL DEFAULT 0,
    account      TEXT,
    job          TEXT,
    published_at INTEGER NOT NULL,
    body         TEXT    NOT NULL
) STRICT;
CREATE INDEX messages_ready   ON messages (lane, taken_by, bulk, due, id);
CREATE INDEX messages_taken   ON messages (taken_by) WHERE taken_by IS NOT NULL;
CREATE INDEX messages_job     ON messages (job);
CREATE INDEX messages_account ON messages (account, lane);

-- One row per job: what people are shown, and the record.
CREATE TABLE jobs (
    job           TEXT    PRIMARY KEY,
    account       TEXT    NOT NULL,
    kind          TEXT,
    hash          TEXT    NOT NULL,
    labels        TEXT    NOT NULL DEFAULT '{}',
    accepted_at   INTEGER NOT NULL,
    deadline      INTEGER,
    touched_at    INTEGER NOT NULL,
    generation    INTEGER NOT NULL,
    step          INTEGER NOT NULL,
    try           INTEGER NOT NULL,
    is_claimed    INTEGER NOT NULL DEFAULT 0,
    wish_at       INTEGER,
    ended         TEXT,
    ended_at      INTEGER,
    product_id    TEXT,
    submission_id TEXT,
    -- The worker of the record's holder, and whether that claim is over although the worker lives.
    holder        BLOB,
    holder_gone   INTEGER NOT NULL DEFAULT 0,
    version       INTEGER NOT NULL DEFAULT 0,
    record        TEXT
) STRICT;
CREATE INDEX jobs_accepted ON jobs (accepted_at, job);
CREATE INDEX jobs_account  ON jobs (account, accepted_at, job);
CREATE INDEX jobs_touched  ON jobs (touched_at);

-- Wishes that wait for the first claim of a generation.
CREATE TABLE controls (
    job        TEXT    PRIMARY KEY,
    generation INTEGER NOT NULL,
    until      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    number  INTEGER PRIMARY KEY AUTOINCREMENT,
    id      TEXT    NOT NULL UNIQUE,
    job     TEXT    NOT NULL,
    account TEXT    NOT NULL,
    name    TEXT    NOT NULL,
    time    INTEGER NOT NULL,
    body    TEXT    NOT NULL
) STRICT;
CREATE INDEX events_job  ON events (job, number);
CREATE INDEX events_time ON events (time);

CREATE TABLE dead_letters (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    is_end      INTEGER NOT NULL,
    job         TEXT,
    account     TEXT,
    generation  INTEGER,
    at          INTEGER NOT NULL,
    class       TEXT    NOT NULL,
    fingerprint TEXT    NOT NULL,
    message     TEXT    NOT NULL,
    lane        TEXT    NOT NULL,
    origin      INTEGER NOT NULL,
    body        TEXT    NOT NULL
) STRICT;
CREATE UNIQUE INDEX dead_letters_end ON dead_letters (job, generation) WHERE is_end = 1;
CREATE INDEX dead_letters_job ON dead_letters (job);
CREATE INDEX dead_letters_at  ON dead_letters (at);

CREATE TABLE turns (
    key      TEXT    PRIMARY KEY,
    job      TEXT    NOT NULL,
    taken_at INTEGER NOT NULL,
    begun_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE owners (
    account    TEXT    NOT NULL,
    product    TEXT    NOT NULL,
    job        TEXT    NOT NULL,
    touched_at INTEGER NOT NULL,
    PRIMARY KEY (account, product)
) STRICT, WITHOUT ROWID;

CREATE TABLE listings (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    account      TEXT    NOT NULL,
    started_at   INTEGER NOT NULL,
    next         TEXT,
    failures     INTEGER NOT NULL DEFAULT 0,
    lease_worker BLOB,
    lease_job    TEXT,
    lease_until  INTEGER,
    whole_at     INTEGER,
    is_complete  INTEGER
) STRICT;
CREATE INDEX listings_account ON listings (account, started_at);
CREATE TABLE listed (
    listing INTEGER NOT NULL REFERENCES listings (id) ON DELETE CASCADE,
    name    TEXT    NOT NULL,
    product TEXT    NOT NULL,
    body    TEXT    NOT NULL,
    PRIMARY KEY (listing, name, product)
) STRICT, WITHOUT ROWID;

CREATE TABLE buckets (
    account TEXT PRIMARY KEY,
    body    TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tokens (
    key     BLOB    PRIMARY KEY CHECK (length(key) = 32),
    sealed  BLOB    NOT NULL,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE token_leases (
    key   BLOB    PRIMARY KEY CHECK (length(key) = 32),
    owner BLOB    NOT NULL,
    until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE transfers (
    job   TEXT    PRIMARY KEY,
    done  INTEGER NOT NULL,
    total INTEGER NOT NULL,
    at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

const SECOND: &str = "
-- A JSON list of the accounts that the worker knows; none: all. And whether it works certain jobs only.
ALTER TABLE workers ADD COLUMN accounts TEXT;
ALTER TABLE workers ADD COLUMN is_restricted INTEGER NOT NULL DEFAULT 0;
-- Messages are found by account: of other accounts there may be thousands that are due.
DROP INDEX messages_ready;
CREATE INDEX messages_ready ON messages (lane, taken_by, account, bulk, due, id);
";

/// The schema of the file.
pub(super) fn version(connection: &Connection) -> Result<i64, Fault> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

/// Is it an SQLite file of another program? An empty one is nobody's.
pub(super) fn is_foreign(connection: &Connection) -> Result<bool, Fault> {
    let id: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(id != APPLICATION_ID && (tables > 0 || id != 0))
}

/// Applies the steps that the file has not seen; true when it was empty before. Runs inside the caller's transaction.
pub(super) fn migrate(connection: &Connection) -> Result<bool, Fault> {
    let found = version(connection)?;
    let seen = usize::try_from(found).unwrap_or(0);
    for step in STEPS.iter().skip(seen) {
        connection.execute_batch(step)?;
    }
    if found < KNOWN {
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        connection.pragma_update(None, "user_version", KNOWN)?;
    }
    Ok(found == 0)
}

/// How SQLite would answer a query, line by line.
#[cfg(test)]
pub(super) fn plan(connection: &Connection, query: &str) -> Vec<String> {
    let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {query}")).unwrap();
    statement.raw_query().mapped(|row| row.get(3)).collect::<Result<_, _>>().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_steps_is_the_schema_that_is_known() {
        assert_eq!(i64::try_from(STEPS.len()), Ok(KNOWN));
    }

    #[test]
    fn a_file_of_the_first_schema_is_brought_up_to_date_with_what_is_in_it() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(FIRST).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        let worker = "INSERT INTO workers (id, pid, since) VALUES (zeroblob(16), 1, 1)";
        connection.execute(worker, []).unwrap();
        assert!(!migrate(&connection).unwrap(), "it was not empty");
        assert_eq!(version(&connection).unwrap(), KNOWN);
        let known: (Option<String>, bool) = connection
            .query_row("SELECT accounts, is_restricted FROM workers", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!(known, (None, false), "a worker of an older build takes whatever comes");
    }

    #[test]
    fn what_the_hot_path_reads_is_read_by_an_index() {
        let connection = Connection::open_in_memory().unwrap();
        assert!(migrate(&connection).unwrap());
        assert!(!migrate(&connection).unwrap());
        for (query, index) in [
            (
                "SELECT due FROM messages
                  WHERE lane = 'a' AND taken_by IS NULL AND account IS 'b' AND bulk = 0 ORDER BY due, id",
                "messages_ready",
            ),
            ("SELECT count(*) FROM messages WHERE account = 'a' AND lane = 'b'", "messages_account"),
            ("SELECT 1 FROM messages WHERE job = 'a' AND taken_by = x'00'", "messages_"),
            ("SELECT DISTINCT taken_by FROM messages WHERE taken_by IS NOT NULL", "messages_taken"),
            ("SELECT body FROM listed WHERE listing = 1 AND name = 'a'", "PRIMARY KEY (listing=? AND name=?)"),
        ] {
            let plan = plan(&connection, query).join("; ");
            assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{query}: {plan}");
        }
    }
}
