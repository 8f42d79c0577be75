//! Looks at the locks of all other workers every 50 ms, and gives back what the dead ones held.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use rusqlite::Connection;

use super::{
    Embedded, Error, Inner,
    error::Fault,
    file::{Book, Shared},
    locks, retention,
    worker::Me,
};

/// How often old rows are thrown away.
const TIDY_EVERY: Duration = Duration::from_mins(1);

/// Starts the thread; it ends with its worker.
pub(super) fn start(home: &Embedded, me: &Arc<Me>, connection: Connection) -> Result<(), Error> {
    let (inner, alive, id) = (Arc::downgrade(&home.inner), Arc::downgrade(me), me.id());
    let shared = &home.inner.shared;
    let every = shared.options.sweep;
    std::thread::Builder::new()
        .name("sqlite-sweep".to_owned())
        .spawn(move || run(&inner, &alive, id, &connection, every))
        .map_err(|error| Error::Sqlite { file: shared.file.clone(), why: format!("no thread for it: {error}") })?;
    Ok(())
}

fn run(home: &Weak<Inner>, me: &Weak<Me>, id: u128, connection: &Connection, every: Duration) {
    let mut tidied = None;
    while me.strong_count() > 0
        && let Some(inner) = home.upgrade()
    {
        inner.returns.wake_if_waiting();
        match dead(connection, &inner.shared, id) {
            Ok(dead) if dead.is_empty() => {}
            Ok(dead) => give_back(&inner, dead),
            Err(fault) => {
                let error = fault.at(&inner.shared.file);
                tracing::warn!(%error, "the locks of the other workers were not looked at");
            }
        }
        let now = crate::clock::monotonic();
        if tidied.is_none_or(|at| now.duration_since(at) >= TIDY_EVERY) {
            tidied = Some(now);
            retention::start(&inner);
        }
        drop(inner);
        std::thread::park_timeout(every);
    }
}

/// All workers but this one that are on the list or hold messages.
pub(super) fn others(connection: &Connection, me: u128) -> Result<Vec<u128>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT id FROM workers UNION SELECT DISTINCT taken_by FROM messages WHERE taken_by IS NOT NULL",
    )?;
    let ids = statement.query_map([], |row| row.get::<_, [u8; 16]>(0))?.collect::<Result<Vec<_>, _>>()?;
    Ok(ids.into_iter().map(u128::from_be_bytes).filter(|id| *id != me).collect())
}

fn dead(connection: &Connection, shared: &Shared, me: u128) -> Result<Vec<u128>, Fault> {
    Ok(others(connection, me)?.into_iter().filter(|id| !locks::lives(&shared.workers, *id)).collect())
}

/// Gives back what a worker held, if it is dead; the transaction decides, and removes its file.
pub(super) fn bury(book: &Book<'_>, id: u128) -> Result<(), Fault> {
    if locks::lives(&book.shared.workers, id) {
        return Ok(());
    }
    let given_back = book
        .tx
        .prepare_cached("UPDATE messages SET taken_by = NULL WHERE taken_by = ?1")?
        .execute([id.to_be_bytes()])?;
    book.tx.prepare_cached("DELETE FROM workers WHERE id = ?1")?.execute([id.to_be_bytes()])?;
    locks::remove(&book.shared.workers, id);
    book.wakes.set(book.wakes.get() || given_back > 0);
    if given_back > 0 {
        tracing::info!(messages = given_back, "a worker is gone: its messages are given out again");
    }
    Ok(())
}

fn give_back(inner: &Arc<Inner>, dead: Vec<u128>) {
    let shared = Arc::clone(&inner.shared);
    // A full line drops the task; the next look is 50 ms away.
    let _is_taken = inner.writer.offer(Box::new(move |connection| {
        let done = shared.write(connection, |book| dead.iter().try_for_each(|id| bury(book, *id)));
        if let Err(fault) = done {
            let error = fault.at(&shared.file);
            tracing::warn!(%error, "what a dead worker held is given back later");
        }
    }));
}
