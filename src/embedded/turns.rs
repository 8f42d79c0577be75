//! Turns that jobs take, and facts about who made what.

use rusqlite::OptionalExtension;
use serde_json::json;

use super::{Embedded, Error, Worker, error::Fault, file::Book, jobs};
use crate::{
    domain::{
        ids::{AccountName, JobKey, ProductId},
        time::Moment,
    },
    engine::ports::{Turn, TurnKey, Turns, Unavailable},
};

fn text(key: &TurnKey) -> String {
    match key {
        TurnKey::Name(account, name) => json!(["name", account, name]).to_string(),
        TurnKey::Product(account, product) => json!(["product", account, product]).to_string(),
    }
}

struct Row {
    job: String,
    taken_at: Moment,
    begun_at: Option<Moment>,
    /// It has not run out: `turn_for` after its stamp or, when that is later, after its taking.
    stands: bool,
}

/// The turn of whoever had it last.
fn last(book: &Book<'_>, key: &str) -> Result<Option<Row>, Fault> {
    let turn_for = book.shared.options.turn_for;
    let found = book
        .tx
        .prepare_cached("SELECT job, taken_at, begun_at FROM turns WHERE key = ?1")?
        .query_row([key], |row| {
            let begun_at = row.get::<_, Option<i64>>(2)?.map(Moment::from_millis);
            let taken_at = Moment::from_millis(row.get(1)?);
            let stands = book.now < begun_at.map_or(taken_at, |begun| begun.max(taken_at)).after(turn_for);
            Ok(Row { job: row.get(0)?, taken_at, begun_at, stands })
        })
        .optional()?;
    Ok(found)
}

fn take(book: &Book<'_>, key: &str, job: &str) -> Result<Turn, Fault> {
    let (begun_at, taken_at) = match last(book, key)? {
        Some(turn) if turn.job != job && turn.stands => return Ok(Turn::Held),
        Some(turn) if turn.job != job => (None, book.now),
        // A stamped turn is not made longer by looking at it.
        Some(turn) if turn.stands && turn.begun_at.is_some() => (turn.begun_at, turn.taken_at),
        // A mark that ran out proves again once its own job has the turn again: nobody else has had it meanwhile, for
        // whoever takes a turn puts his name in its place.
        Some(turn) => (turn.begun_at, book.now),
        None => (None, book.now),
    };
    book.tx
        .prepare_cached(
            "INSERT INTO turns (key, job, taken_at, begun_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (key) DO UPDATE SET job = ?2, taken_at = ?3, begun_at = ?4",
        )?
        .execute((key, job, taken_at.as_millis(), begun_at.map(Moment::as_millis)))?;
    Ok(Turn::Ours { begun_at })
}

fn stamp(book: &Book<'_>, key: &str, job: &str, begun_at: Moment) -> Result<bool, Fault> {
    if last(book, key)?.is_none_or(|turn| turn.job != job || !turn.stands) {
        return Ok(false);
    }
    book.tx.prepare_cached("UPDATE turns SET begun_at = ?2 WHERE key = ?1")?.execute((key, begun_at.as_millis()))?;
    Ok(true)
}

impl Turns for Worker {
    async fn take_turn(&self, key: &TurnKey, job: &JobKey) -> Result<Turn, Unavailable> {
        let (key, job) = (text(key), job.to_string());
        Ok(self.write(move |book| take(book, &key, &job)).await?)
    }

    async fn stamp_turn(&self, key: &TurnKey, job: &JobKey, begun_at: Moment) -> Result<bool, Unavailable> {
        let (key, job) = (text(key), job.to_string());
        Ok(self.write(move |book| stamp(book, &key, &job, begun_at)).await?)
    }

    async fn end_turn(&self, key: &TurnKey, job: &JobKey, begun_at: Option<Moment>) -> Result<(), Unavailable> {
        let (key, job, stamp) = (text(key), job.to_string(), begun_at.map(Moment::as_millis));
        let ended = self.write(move |book| {
            book.tx
                .prepare_cached("DELETE FROM turns WHERE key = ?1 AND job = ?2 AND begun_at IS ?3")?
                .execute((key, job, stamp))?;
            Ok(())
        });
        Ok(ended.await?)
    }

    async fn own(&self, account: &AccountName, product: ProductId, job: &JobKey) -> Result<(), Unavailable> {
        let (account, product, job) = (account.to_string(), product.to_string(), job.to_string());
        let owned = self.write(move |book| {
            // The first fact stays; the same one again stays longer.
            book.tx
                .prepare_cached(
                    "INSERT INTO owners (account, product, job, touched_at) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (account, product) DO UPDATE SET touched_at = ?4 WHERE job = ?3",
                )?
                .execute((account, product, job, book.now.as_millis()))?;
            Ok(())
        });
        Ok(owned.await?)
    }

    async fn owner(&self, account: &AccountName, product: ProductId) -> Result<Option<JobKey>, Unavailable> {
        let (account, product) = (account.to_string(), product.to_string());
        let owner = self.look(move |connection, _| {
            let job: Option<String> = connection
                .prepare_cached("SELECT job FROM owners WHERE account = ?1 AND product = ?2")?
                .query_row((account, product), |row| row.get(0))
                .optional()?;
            Ok(job.as_deref().and_then(jobs::parse_key))
        });
        Ok(owner.await?)
    }
}

impl Embedded {
    /// The products of which it is known which job made or adopted them.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn owned(&self, account: &AccountName) -> Result<Vec<(ProductId, JobKey)>, Error> {
        let account = account.to_string();
        self.page(move |connection, _| {
            let mut statement =
                connection.prepare_cached("SELECT product, job FROM owners WHERE account = ?1 ORDER BY product")?;
            let rows =
                statement.query_map([account], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
            let mut owned = Vec::new();
            for row in rows {
                let (product, job) = row?;
                owned.extend(product.parse().ok().zip(jobs::parse_key(&job)));
            }
            Ok(owned)
        })
        .await
    }
}
