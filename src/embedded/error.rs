//! What can go wrong with the file, said so that a person knows which file and what to do next.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::engine::ports::Unavailable;

/// Why the embedded home cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder, or a file in it, cannot be made or read.
    #[error("{} cannot be used: {source}; give `data_dir` a folder that this user can write", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The folder lies on a file system of another machine, where locks and memory maps do not hold.
    #[error(
        "{} lies on a network file system ({kind}), where the locks that keep jobs from being done twice do not hold; \
         set `data_dir` to a folder on a local disk, or use the fleet",
        path.display()
    )]
    NetworkFileSystem {
        /// The folder.
        path: PathBuf,
        /// The file system's kind.
        kind: String,
    },
    /// A newer build has written the file.
    #[error(
        "{} was written by a newer longshore (schema {found}, this build knows up to {known}); run that build, or \
         point `data_dir` elsewhere",
        file.display()
    )]
    NewerSchema {
        /// The file.
        file: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema that this build knows.
        known: i64,
    },
    /// The file is an SQLite file of another program.
    #[error("{} is an SQLite file, but not one of longshore; point `data_dir` elsewhere", file.display())]
    NotOurs {
        /// The file.
        file: PathBuf,
    },
    /// The file is damaged, or is no SQLite file at all.
    #[error(
        "{} is damaged ({why}); stop all workers, put a copy of the file back and run `longshore doctor --restored`",
        file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What SQLite says.
        why: String,
    },
    /// There is no room to write.
    #[error("{} cannot grow ({why}); make room on its disk: nothing was lost, jobs go on by themselves", file.display())]
    Full {
        /// The file.
        file: PathBuf,
        /// What SQLite says.
        why: String,
    },
    /// Another process kept the file to itself for too long.
    #[error("{} was busy for too long ({why}); another process holds it: `longshore doctor` names the workers", file.display())]
    Busy {
        /// The file.
        file: PathBuf,
        /// What SQLite says.
        why: String,
    },
    /// SQLite refuses for another reason.
    #[error("{} cannot be read or written: {why}", file.display())]
    Sqlite {
        /// The file.
        file: PathBuf,
        /// What SQLite says.
        why: String,
    },
    /// A row is there but cannot be understood.
    #[error("{} holds a {what} that cannot be read: {why}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What it should be.
        what: &'static str,
        /// Why it is not.
        why: String,
    },
    /// This worker's lock file was taken away while it ran: others count it as dead.
    #[error("the lock file {} of this worker is gone; start the worker again", path.display())]
    LockGone {
        /// The lock file.
        path: PathBuf,
    },
    /// The thread that owns the file has ended.
    #[error("the thread that owns {} has ended; start the process again", file.display())]
    Stopped {
        /// The file.
        file: PathBuf,
    },
}

impl From<Error> for Unavailable {
    fn from(error: Error) -> Self {
        Self { what: "the embedded home", why: error.to_string() }
    }
}

/// An error inside a transaction, which does not know its file.
#[derive(Debug)]
pub(super) enum Fault {
    /// SQLite's own.
    Sqlite(rusqlite::Error),
    /// A row that cannot be understood, or a value that cannot be written.
    Unreadable {
        /// What it should be.
        what: &'static str,
        /// Why it is not.
        why: String,
    },
    /// This worker is no longer on the list of workers.
    LockGone(PathBuf),
    /// A file that is not the database.
    Io(PathBuf, std::io::Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Fault {
    /// A row of this kind that cannot be understood.
    pub(super) fn unreadable(what: &'static str) -> impl FnOnce(serde_json::Error) -> Self {
        move |error| Self::Unreadable { what, why: error.to_string() }
    }

    /// The error for the world.
    pub(super) fn at(self, file: &Path) -> Error {
        let file = file.to_owned();
        match self {
            Self::Sqlite(error) => of_sqlite(file, &error),
            Self::Unreadable { what, why } => Error::Unreadable { file, what, why },
            Self::LockGone(path) => Error::LockGone { path },
            Self::Io(path, source) => Error::Folder { path, source },
        }
    }
}

fn of_sqlite(file: PathBuf, error: &rusqlite::Error) -> Error {
    let why = error.to_string();
    // On a full disk the file that the processes share beside it cannot grow either, and SQLite calls that an I/O error.
    let extended = error.sqlite_error().map(|error| error.extended_code);
    if extended == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE) {
        return Error::Full { file, why };
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Error::Damaged { file, why },
        Some(ErrorCode::DiskFull) => Error::Full { file, why },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Busy { file, why },
        Some(_) | None => Error::Sqlite { file, why },
    }
}
