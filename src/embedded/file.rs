//! The file: where it lies, how a connection to it is made, what every transaction begins with.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use tokio::sync::Notify;

use super::{
    Options,
    error::{Error, Fault},
    schema, system,
};
use crate::domain::{
    claim::{Birth, Epoch},
    ids::JobKey,
    time::Moment,
};

/// How long a transaction waits for those of other processes.
const BUSY_FOR: Duration = Duration::from_secs(10);

/// By how much the wall clock may step back while the memory's clock stands still; beyond, it follows the wall clock.
const STEP_BACK: Duration = Duration::from_mins(1);

/// What all parts of one home share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) file: PathBuf,
    pub(super) workers: PathBuf,
    /// Something may have become due: look now, not in 50 ms.
    pub(super) changed: Notify,
    /// When each transfer was last written down.
    pub(super) transfers: Mutex<BTreeMap<JobKey, std::time::Instant>>,
}

impl Shared {
    /// Checks the folder and makes what is missing in it.
    pub(super) fn prepare(options: Options) -> Result<Arc<Self>, Error> {
        let broken = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Folder { path, source }
        };
        system::make_private_folder(&options.data_dir).map_err(broken(&options.data_dir))?;
        let folder = options.data_dir.canonicalize().map_err(broken(&options.data_dir))?;
        if let Some(kind) = system::network_file_system(&folder) {
            return Err(Error::NetworkFileSystem { path: folder, kind });
        }
        let workers = folder.join("workers");
        system::make_private_folder(&workers).map_err(broken(&workers))?;
        let file = folder.join("longshore.db");
        match system::make_private_file(&file) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                system::make_private(&file).map_err(broken(&file))?;
            }
            Err(error) => return Err(broken(&file)(error)),
        }
        Ok(Arc::new(Self { options, file, workers, changed: Notify::new(), transfers: Mutex::default() }))
    }

    /// The accounts that workers of this home know, as a JSON list; none: all.
    pub(super) fn known_accounts(&self) -> Option<String> {
        let names = self.options.accounts.as_ref()?.iter().map(ToString::to_string);
        Some(serde_json::Value::from(names.collect::<Vec<_>>()).to_string())
    }

    /// A connection with everything set that is set per connection.
    pub(super) fn connect(&self) -> Result<Connection, Error> {
        self.try_connect().map_err(|fault| fault.at(&self.file))
    }

    fn try_connect(&self) -> Result<Connection, Fault> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&self.file, flags)?;
        connection.busy_handler(Some(patience()))?;
        connection.set_prepared_statement_cache_capacity(64);
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        if let Some(pages) = self.options.max_page_count {
            connection.pragma_update(None, "max_page_count", super::int(pages))?;
        }
        Ok(connection)
    }

    /// The first connection of a home: refuses files that are not for this build, and brings older ones up to date.
    pub(super) fn found(&self) -> Result<Connection, Error> {
        let mut connection = self.connect()?;
        self.check(&mut connection).map_err(|fault| fault.at(&self.file))??;
        self.tune(&connection).map_err(|fault| fault.at(&self.file))?;
        Ok(connection)
    }

    fn check(&self, connection: &mut Connection) -> Result<Result<(), Error>, Fault> {
        if schema::is_foreign(connection)? {
            return Ok(Err(Error::NotOurs { file: self.file.clone() }));
        }
        let refused = |found| Error::NewerSchema { file: self.file.clone(), found, known: schema::KNOWN };
        let found = schema::version(connection)?;
        if found > schema::KNOWN {
            return Ok(Err(refused(found)));
        }
        if found == 0 {
            // Takes hold only before the first table is there.
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        }
        write_ahead(connection)?;
        self.tune(connection)?;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // ORDER: read again under the write lock; another process may have migrated meanwhile.
        let found = schema::version(&tx)?;
        if found > schema::KNOWN {
            return Ok(Err(refused(found)));
        }
        if schema::migrate(&tx)? {
            let now = self.wall();
            tx.execute(
                "INSERT INTO home (only_row, epoch, born_at, born_clean, clock) VALUES (1, ?1, ?2, 1, ?2)",
                (crate::clock::random_bytes::<16>(), now.as_millis()),
            )?;
        }
        tx.commit()?;
        Ok(Ok(()))
    }

    /// A further connection, to a file that [`Shared::found`] has checked.
    pub(super) fn further(&self) -> Result<Connection, Error> {
        let connection = self.connect()?;
        self.tune(&connection).map_err(|fault| fault.at(&self.file))?;
        Ok(connection)
    }

    #[expect(clippy::unused_self, reason = "reads as what it is beside its siblings")]
    fn tune(&self, connection: &Connection) -> Result<(), Fault> {
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "secure_delete", true)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        connection.pragma_update(None, "journal_size_limit", 16 * 1024 * 1024)?;
        Ok(())
    }

    /// One write: `BEGIN IMMEDIATE`, the work, commit. An error rolls everything back.
    pub(super) fn write<T>(
        &self,
        connection: &mut Connection,
        work: impl FnOnce(&Book<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let now = self.now(&tx)?;
        tx.prepare_cached("UPDATE home SET clock = ?1 WHERE clock <> ?1")?.execute([now.as_millis()])?;
        let book = Book { tx: &tx, shared: self, now, wakes: std::cell::Cell::new(false) };
        let outcome = work(&book)?;
        let wakes = book.wakes.get();
        tx.commit()?;
        if wakes {
            self.changed.notify_waiters();
        }
        Ok(outcome)
    }

    /// The wall clock as this home reads it.
    fn wall(&self) -> Moment {
        let shift = self.options.shift.millis();
        Moment::from_millis(crate::clock::moment().as_millis().saturating_add(shift))
    }

    /// The memory's clock: the wall clock, never behind what the file has seen.
    ///
    /// It stands still while the wall clock is up to a minute behind. A wall clock that was set back by more has been
    /// wrong before; standing still until it catches up would stop every job, so it is followed.
    pub(super) fn now(&self, connection: &Connection) -> Result<Moment, Fault> {
        let seen: i64 =
            connection.prepare_cached("SELECT clock FROM home WHERE only_row = 1")?.query_row([], |row| row.get(0))?;
        let (seen, wall) = (Moment::from_millis(seen), self.wall());
        Ok(if seen > wall && seen.since(wall) <= STEP_BACK { seen } else { wall })
    }

    /// Is this transfer's progress due to be written down? Remembers that it is.
    pub(super) fn may_note(&self, job: &JobKey, every: Duration) -> bool {
        let now = crate::clock::monotonic();
        let mut noted = self.transfers.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.get(job).is_some_and(|before| now.duration_since(*before) < every) {
            return false;
        }
        if noted.len() >= 1_000 {
            noted.retain(|_, before| now.duration_since(*before) < every);
        }
        noted.insert(job.clone(), now);
        true
    }
}

/// Waits between processes by short random sleeps: SQLite's own back-off starves writers (1 : 11 was measured).
fn patience() -> impl FnMut(i32) -> bool + Send + 'static {
    let mut since = crate::clock::monotonic();
    move |count| {
        let now = crate::clock::monotonic();
        if count == 0 {
            since = now;
        }
        let goes_on = now.duration_since(since) < BUSY_FOR;
        if goes_on {
            let wait = Duration::from_secs_f64(0.000_1 + 0.001_4 * crate::clock::chance());
            std::thread::sleep(wait);
        }
        goes_on
    }
}

/// Switches to write-ahead logging. Two processes that do so at once see "busy" without the busy handler being asked.
fn write_ahead(connection: &Connection) -> Result<(), Fault> {
    let mut patience = patience();
    let mut count = 0;
    loop {
        match connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0)) {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                return Err(Fault::Unreadable { what: "journal", why: format!("its mode stays {mode:?}, not WAL") });
            }
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {
                if !patience(count) {
                    return Err(error.into());
                }
                count = 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// An open write transaction.
pub(super) struct Book<'a> {
    pub(super) tx: &'a Connection,
    pub(super) shared: &'a Shared,
    pub(super) now: Moment,
    /// After the commit, those who wait for messages should look.
    pub(super) wakes: std::cell::Cell<bool>,
}

/// The memory's life, as the file has it.
pub(super) fn birth(connection: &Connection) -> Result<Birth, Fault> {
    let (epoch, at, is_clean): ([u8; 16], i64, bool) = connection
        .prepare_cached("SELECT epoch, born_at, born_clean FROM home WHERE only_row = 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(Birth { epoch: Epoch(u128::from_be_bytes(epoch)), at: Moment::from_millis(at), is_clean })
}
