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

struct Standing {
    job: String,
    since: Moment,
    begun_at: Option<Moment>,
}

/// The turn as it stands, if it still stands: it is over `turn_for` after its stamp, else after its taking.
fn standing(book: &Book<'_>, key: &str) -> Result<Option<Standing>, Fault> {
    let found = book
        .tx
        .prepare_cached("SELECT job, taken_at, begun_at FROM turns WHERE key = ?1")?
        .query_row([key], |row| {
            let begun_at: Option<i64> = row.get(2)?;
            Ok(Standing {
                job: row.get(0)?,
                since: Moment::from_millis(row.get(1)?),
                begun_at: begun_at.map(Moment::from_millis),
            })
        })
        .optional()?;
    let turn_for = book.shared.options.turn_for;
    Ok(found.filter(|turn| book.now < turn.begun_at.unwrap_or(turn.since).after(turn_for)))
}

fn take(book: &Book<'_>, key: &str, job: &str) -> Result<Turn, Fault> {
    let begun_at = match standing(book, key)? {
        Some(turn) if turn.job != job => return Ok(Turn::Held),
        Some(turn) => turn.begun_at,
        // An expired mark proves nothing until it is made anew.
        None => None,
    };
    book.tx
        .prepare_cached(
            "INSERT INTO turns (key, job, taken_at, begun_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (key) DO UPDATE SET job = ?2, taken_at = ?3, begun_at = ?4",
        )?
        .execute((key, job, book.now.as_millis(), begun_at.map(Moment::as_millis)))?;
    Ok(Turn::Ours { begun_at })
}

fn stamp(book: &Book<'_>, key: &str, job: &str, begun_at: Moment) -> Result<bool, Fault> {
    if standing(book, key)?.is_none_or(|turn| turn.job != job) {
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

    async fn end_turn(&self, key: &TurnKey, job: &JobKey) -> Result<(), Unavailable> {
        let (key, job) = (text(key), job.to_string());
        let ended = self.write(move |book| {
            book.tx.prepare_cached("DELETE FROM turns WHERE key = ?1 AND job = ?2")?.execute((key, job))?;
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
