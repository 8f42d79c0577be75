//! The names in a home that is only looked at: what a shell offers behind the Tab key.
//!
//! A look makes nothing and changes nothing: no file, no folder, no newer schema. What it cannot read it does not tell.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, params};

use super::{error::Fault, jobs, schema};
use crate::domain::ids::JobKey;

/// Whose names are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// Jobs, the latest first.
    Jobs,
    /// The jobs of dead letters, the latest first.
    DeadLetters,
}

/// The keys of at most so many jobs whose id, or whole key, begins with `start`.
///
/// Empty when there is no home in `data_dir`, when its file is of another schema than this build's, or cannot be read.
#[must_use]
pub fn glance(data_dir: &Path, wanted: Named, start: &str, most: u32) -> Vec<JobKey> {
    read(&data_dir.join("longshore.db"), wanted, start, most).ok().flatten().unwrap_or_default()
}

fn read(file: &Path, wanted: Named, start: &str, most: u32) -> Result<Option<Vec<JobKey>>, Fault> {
    let beside = |end: &str| {
        let mut name = file.as_os_str().to_owned();
        name.push(end);
        Path::new(&name).is_file()
    };
    let absolute = std::path::absolute(file).map_err(|error| Fault::Io(file.to_owned(), error))?;
    let Ok(mut address) = url::Url::from_file_path(absolute) else { return Ok(None) };
    // SQLite makes the files beside a database even for a reader. With nobody at work they are not there, and the file
    // alone holds everything; with somebody at work both are.
    match (beside("-wal"), beside("-shm")) {
        (false, _) => address.set_query(Some("mode=ro&immutable=1")),
        (true, true) => address.set_query(Some("mode=ro&readonly_shm=1")),
        (true, false) => return Ok(None),
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(address.as_str(), flags)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    if schema::is_foreign(&connection)? || schema::version(&connection)? != schema::KNOWN {
        return Ok(None);
    }
    let sql = match wanted {
        Named::Jobs => {
            "SELECT job FROM jobs
              WHERE substr(job, 1, length(?1)) = ?1 OR substr(job, instr(job, '/') + 1, length(?1)) = ?1
              ORDER BY accepted_at DESC, job LIMIT ?2"
        }
        Named::DeadLetters => {
            "SELECT job FROM dead_letters
              WHERE substr(job, 1, length(?1)) = ?1 OR substr(job, instr(job, '/') + 1, length(?1)) = ?1
              GROUP BY job ORDER BY max(id) DESC LIMIT ?2"
        }
    };
    let mut statement = connection.prepare(sql)?;
    let keys = statement.query_map(params![start, most], |row| row.get::<_, String>(0))?;
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    Ok(Some(keys.iter().filter_map(|key| jobs::parse_key(key)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{job::Job, ticket::Ticket},
        embedded::{Embedded, Options},
    };

    fn ticket(account: &str, id: &str) -> Ticket {
        let text = format!(
            r#"{{"id":"{id}","kind":"status-poll","account":"{account}","spec":{{"product":{{"id":"1"}},"submission":{{"id":"2"}}}}}}"#
        );
        let job = Job::decode(text.as_bytes(), || None).unwrap();
        let hash = job.content_hash();
        Ticket::new(job, hash, None, crate::clock::moment())
    }

    fn named(folder: &Path, start: &str) -> Vec<String> {
        let mut names: Vec<_> = glance(folder, Named::Jobs, start, 9).iter().map(ToString::to_string).collect();
        names.sort();
        names
    }

    /// The names of the files there.
    fn files(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn names_are_read_beside_who_works_and_when_nobody_does_and_nothing_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("home");
        assert!(named(&data_dir, "").is_empty());
        assert!(!data_dir.exists(), "looking made a home");
        let home = Embedded::open(Options::new(&data_dir)).unwrap();
        for (account, id) in [("contoso", "nic-1"), ("contoso", "audio"), ("fabrikam", "nic-1")] {
            home.accept(ticket(account, id)).await.unwrap();
        }
        assert_eq!(named(&data_dir, "nic"), ["contoso/nic-1", "fabrikam/nic-1"]);
        assert_eq!(named(&data_dir, "fab"), ["fabrikam/nic-1"]);
        assert!(glance(&data_dir, Named::DeadLetters, "", 9).is_empty());
        drop(home);
        // The threads that own the connections end after the last handle.
        while data_dir.join("longshore.db-wal").exists() {
            std::thread::yield_now();
        }
        let before = files(&data_dir);
        assert_eq!(named(&data_dir, "").len(), 3);
        assert_eq!(files(&data_dir), before);
    }

    #[test]
    fn a_file_of_another_schema_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("longshore.db");
        for version in [schema::KNOWN - 1, schema::KNOWN + 1] {
            let connection = Connection::open(&file).unwrap();
            schema::migrate(&connection).unwrap();
            let insert =
                "INSERT OR IGNORE INTO jobs (job, account, hash, accepted_at, touched_at, generation, step, try)
                          VALUES ('contoso/a', 'contoso', 'x', 1, 1, 1, 0, 0)";
            connection.execute(insert, []).unwrap();
            assert_eq!(named(folder.path(), ""), ["contoso/a"], "of its own schema it is read");
            connection.pragma_update(None, "user_version", version).unwrap();
            drop(connection);
            assert!(named(folder.path(), "").is_empty());
            let connection = Connection::open(&file).unwrap();
            assert_eq!(schema::version(&connection).unwrap(), version);
            connection.pragma_update(None, "user_version", schema::KNOWN).unwrap();
        }
    }
}
