//! The file itself: what is refused, what is said, what is wiped.

use std::{path::Path, time::Duration};

use super::*;
use crate::{
    domain::{ids::JobKey, job::Job, ticket::Ticket, time::Moment},
    engine::ports::{Memory, Queue, Unavailable},
};

fn ticket(id: &str) -> Ticket {
    let text = format!(
        r#"{{"id":"{id}","kind":"status-poll","account":"contoso","spec":{{"product":{{"id":"1"}},"submission":{{"id":"2"}}}}}}"#
    );
    let job = Job::decode(text.as_bytes(), || None).unwrap();
    let hash = job.content_hash();
    Ticket::new(job, hash, None, crate::clock::moment())
}

fn key(id: &str) -> JobKey {
    ticket(id).key()
}

/// Changes the file by SQL, on a connection of its own.
fn change(folder: &Path, sql: &str) {
    Connection::open(folder.join("longshore.db")).unwrap().execute_batch(sql).unwrap();
}

/// The bytes of a file, read by another process: a descriptor closed in this one would drop SQLite's locks.
fn bytes(path: &Path) -> Vec<u8> {
    std::process::Command::new("cat").arg(path).output().unwrap().stdout
}

fn holds(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_found_again_with_all_that_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let home = Embedded::open(Options::new(folder.path())).unwrap();
    let birth = home.birth().await.unwrap();
    assert!(birth.is_clean);
    home.accept(ticket("a")).await.unwrap();
    drop(home);
    let home = Embedded::open(Options::new(folder.path())).unwrap();
    assert_eq!(home.birth().await.unwrap(), birth);
    assert!(home.job(&key("a")).await.unwrap().is_some());
    assert!(home.integrity().await.unwrap().is_empty());
}

#[test]
fn many_may_make_the_file_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("deep/below");
    let births: Vec<Birth> = std::thread::scope(|scope| {
        let open = || {
            let home = Embedded::open(Options::new(&data_dir)).unwrap();
            let connection = home.inner.shared.further().unwrap();
            file::birth(&connection).unwrap()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(births.iter().all(|birth| *birth == births[0]), "{births:?}");
}

#[cfg(unix)]
#[test]
fn nobody_else_may_read_what_lies_in_the_folder() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("home");
    let home = Embedded::open(Options::new(&data_dir)).unwrap();
    let worker = home.worker().unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&data_dir), mode(&data_dir.join("workers"))), (0o700, 0o700));
    for name in ["longshore.db", "longshore.db-wal", "longshore.db-shm"] {
        assert_eq!(mode(&data_dir.join(name)), 0o600, "{name}");
    }
    assert_eq!(mode(worker.lock_file()), 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_connection_syncs_and_wipes() {
    let folder = tempfile::tempdir().unwrap();
    let home = Embedded::open(Options::new(folder.path())).unwrap();
    for (pragma, expected) in [("synchronous", 2), ("secure_delete", 1), ("foreign_keys", 1), ("auto_vacuum", 2)] {
        let value = |connection: &Connection| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        let written = home.write(move |book| Ok(value(book.tx)?)).await.unwrap();
        let read = home.look(move |connection, _| Ok(value(connection)?)).await.unwrap();
        assert_eq!((written, read), (expected, expected), "{pragma}");
    }
    let mode = home.look(|c, _| Ok(c.pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0))?)).await;
    assert_eq!(mode.unwrap(), "wal");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_is_wiped_from_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new(folder.path());
    let shift = options.shift.clone();
    let home = Embedded::open(options).unwrap();
    let checkpoint = || home.inner.writer.run(|c| Ok(c.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?));
    let secret = b"a sealed token that nobody shall find again";
    let expires = home.now().await.unwrap().after(Duration::from_mins(1));
    home.store_token(&[1; 32], secret.to_vec(), expires).await.unwrap();
    checkpoint().await.unwrap();
    assert!(holds(&bytes(home.file()), secret));
    shift.advance(Duration::from_secs(61));
    assert_eq!(home.tidy().await.unwrap().others, 1);
    checkpoint().await.unwrap();
    assert!(!holds(&bytes(home.file()), secret));
}

#[test]
fn a_newer_schema_and_a_foreign_file_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    drop(Embedded::open(Options::new(folder.path())).unwrap());
    change(folder.path(), "PRAGMA user_version = 99");
    let error = Embedded::open(Options::new(folder.path())).unwrap_err();
    assert!(matches!(error, Error::NewerSchema { found: 99, known: schema::KNOWN, .. }), "{error}");
    assert!(error.to_string().contains("longshore.db") && error.to_string().contains("newer longshore"), "{error}");
    let other = tempfile::tempdir().unwrap();
    change(other.path(), "CREATE TABLE recipes (name TEXT)");
    let error = Embedded::open(Options::new(other.path())).unwrap_err();
    assert!(matches!(error, Error::NotOurs { .. }) && error.to_string().contains("longshore.db"), "{error}");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Embedded::open(Options::new(file.join("home"))).unwrap_err();
    assert!(matches!(error, Error::Folder { .. }) && error.to_string().contains("file/home"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("longshore.db"), "this is no database, whatever its name says. ".repeat(100))
        .unwrap();
    let error = Embedded::open(Options::new(folder.path())).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("longshore.db") && text.contains("doctor --restored"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_the_middle_is_found_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let home = Embedded::open(Options::new(folder.path())).unwrap();
    for n in 0..50 {
        home.accept(ticket(&format!("job-{n}"))).await.unwrap();
    }
    home.inner.writer.run(|c| Ok(c.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?)).await.unwrap();
    let (file, copy) = (home.file().to_owned(), tempfile::tempdir().unwrap());
    let mut damaged = bytes(&file);
    let middle = damaged.len() / 4;
    damaged[middle..].fill(0xa5);
    std::fs::write(copy.path().join("longshore.db"), damaged).unwrap();
    let error = match Embedded::open(Options::new(copy.path())) {
        Err(error) => error,
        Ok(home) => {
            let findings = home.integrity().await;
            assert!(findings.as_ref().map_or(true, |found| !found.is_empty()), "{findings:?}");
            let read = home.jobs(JobFilter::default()).await.map(drop);
            read.and(home.events(0, EventFilter::default()).await.map(drop)).unwrap_err()
        }
    };
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    assert!(error.to_string().contains(copy.path().to_str().unwrap()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named_and_nothing_is_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { max_page_count: Some(100), ..Options::new(folder.path()) };
    let home = Embedded::open(options).unwrap();
    let mut accepted = 0;
    let error = loop {
        assert!(accepted < 10_000);
        match home.accept(ticket(&format!("job-{accepted}"))).await {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Full { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("longshore.db") && text.contains("make room"), "{text}");
    let size = home.size().await.unwrap();
    assert_eq!((size.jobs, size.messages, size.events), (accepted, accepted, accepted));
    // What was in hand goes on: reading works, and what is settled makes room.
    let worker = home.worker().unwrap();
    let received = worker.receive(crate::domain::step::Kind::Submission).await.unwrap();
    drop(received);
    drop((worker, home));
    let home = Embedded::open(Options::new(folder.path())).unwrap();
    home.accept(ticket("one-more")).await.unwrap();
    assert!(home.integrity().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_never_runs_backwards_for_a_small_step_and_follows_a_large_one() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new(folder.path());
    let shift = options.shift.clone();
    let worker = Embedded::open(options).unwrap().worker().unwrap();
    let seen = async || worker.write(|book| Ok(book.now)).await.unwrap();
    let first = seen().await;
    shift.step_back(Duration::from_secs(50));
    assert!(seen().await >= first);
    assert!(worker.load(&key("a")).await.unwrap().now >= first);
    shift.advance(Duration::from_secs(50 + 3_600));
    let later = seen().await;
    assert!(later >= first.after(Duration::from_hours(1)));
    // A clock that was an hour ahead was wrong: standing still for an hour would stop every job.
    shift.step_back(Duration::from_hours(1));
    let back = seen().await;
    assert!(back < later.before(Duration::from_secs(3_500)) && back >= first);
}

#[tokio::test(flavor = "multi_thread")]
async fn restoring_an_older_copy_begins_a_new_unclean_life() {
    let folder = tempfile::tempdir().unwrap();
    let home = Embedded::open(Options::new(folder.path())).unwrap();
    let before = home.birth().await.unwrap();
    let born = home.restored().unwrap();
    assert!(born.epoch != before.epoch && !born.is_clean && born.at >= before.at);
    assert_eq!(home.birth().await.unwrap(), born);
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_files_that_never_came_on_the_list_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let home = Embedded::open(Options::new(folder.path())).unwrap();
    let workers = folder.path().join("workers");
    std::fs::write(workers.join(format!("{:032x}.lock", 7)), "").unwrap();
    std::fs::write(workers.join("notes.txt"), "").unwrap();
    let first = home.worker().unwrap();
    let id = first.id();
    assert_eq!(locks::files(&workers).unwrap(), [id]);
    drop(first);
    let second = home.worker().unwrap();
    let mut left = locks::files(&workers).unwrap();
    left.retain(|file| *file != second.id());
    assert!(left.is_empty() && workers.join("notes.txt").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_the_file_to_the_engine_too() {
    let folder = tempfile::tempdir().unwrap();
    let worker = Embedded::open(Options::new(folder.path())).unwrap().worker().unwrap();
    worker.write(|book| Ok(book.tx.execute_batch("DROP TABLE jobs")?)).await.unwrap();
    let Unavailable { what, why } = worker.load(&key("a")).await.unwrap_err();
    assert_eq!(what, "the embedded home");
    assert!(why.contains("longshore.db") && why.contains("jobs"), "{why}");
    assert_ne!(worker.now().await.unwrap(), Moment::default());
}

#[tokio::test]
async fn a_worker_has_no_pulse_once_the_writer_is_gone_or_its_lock_file() {
    let folder = tempfile::tempdir().unwrap();
    let worker = Embedded::open(Options::new(folder.path())).unwrap().worker().unwrap();
    assert_eq!(worker.pulse().await.unwrap().waiting, 0);
    std::fs::rename(worker.lock_file(), folder.path().join("aside")).unwrap();
    assert!(matches!(worker.pulse().await, Err(Error::LockGone { .. })));
    std::fs::rename(folder.path().join("aside"), worker.lock_file()).unwrap();
    let broken = worker.write(|_| -> Result<(), Fault> { panic!("the writer's thread ends by this") });
    assert!(matches!(broken.await, Err(Error::Stopped { .. })));
    assert!(matches!(worker.pulse().await, Err(Error::Stopped { .. })));
}
