//! The permits that the home gave, each with its instant: a trigger of this run's own beside the home's tables writes
//! them down, in the transaction that gives them. Nothing in the program knows of it.

use std::path::Path;

use anyhow::Result;
use rusqlite::Connection;

/// Begins to write them down. The bucket's next arrival lies one interval behind the permit it was moved by; a
/// difference in time does not see that interval, for the rate is the same all the time.
pub(crate) fn watch(home: &Path) -> Result<()> {
    Connection::open(home)?.execute_batch(
        "CREATE TABLE load_permits (at_us INTEGER NOT NULL);
         CREATE TRIGGER load_first AFTER INSERT ON buckets WHEN json_extract(new.body, '$.common_us') > 0 BEGIN
           INSERT INTO load_permits VALUES (json_extract(new.body, '$.common_us'));
         END;
         CREATE TRIGGER load_next AFTER UPDATE ON buckets
           WHEN json_extract(new.body, '$.common_us') <> json_extract(old.body, '$.common_us') BEGIN
           INSERT INTO load_permits VALUES (json_extract(new.body, '$.common_us'));
         END;",
    )?;
    Ok(())
}

/// Their instants in microseconds, in order.
pub(crate) fn read(home: &Path) -> Result<Vec<i64>> {
    let connection = Connection::open(home)?;
    let mut statement = connection.prepare("SELECT at_us FROM load_permits ORDER BY at_us")?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The most instants within any span of so many microseconds; they must be in order.
pub(crate) fn most_within(instants: &[i64], span_us: i64) -> usize {
    let mut first = 0;
    let mut most = 0;
    for (n, at) in instants.iter().enumerate() {
        while instants.get(first).is_some_and(|earliest| at - earliest >= span_us) {
            first += 1;
        }
        most = most.max(n + 1 - first);
    }
    most
}
