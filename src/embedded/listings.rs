//! Listings of an account's products: read once for all who wait, page by page.
//!
//! An account has at most one listing under way, beside the newest complete one and, when it is newer, the newest that
//! could not be read to its end. [`Listings::listed`] answers from the last two together: what was told to be whole stays
//! readable while the next is under way, and an incomplete one only ever adds presence.

use rusqlite::OptionalExtension;

use super::{Worker, error::Fault, file::Book, locks};
use crate::{
    domain::{
        ids::{AccountName, JobKey},
        service::{PageLink, Product},
        time::Moment,
    },
    engine::ports::{Listing, Listings, Unavailable},
};

/// The one who asks: an account's job on a worker.
struct Reader {
    account: String,
    job: String,
    worker: [u8; 16],
}

struct UnderWay {
    id: i64,
    started_at: Moment,
    next: Option<String>,
    job: Option<String>,
    worker: Option<[u8; 16]>,
    until: Option<Moment>,
}

impl UnderWay {
    fn is_leased_by(&self, reader: &Reader) -> bool {
        self.job.as_ref() == Some(&reader.job) && self.worker == Some(reader.worker)
    }

    /// Is somebody else, who lives, reading it? The job itself on another worker is nobody else: it has moved here.
    fn is_read_by_another(&self, book: &Book<'_>, reader: &Reader) -> Result<bool, Fault> {
        let (Some(job), Some(worker), Some(until)) = (&self.job, self.worker, self.until) else { return Ok(false) };
        let lives = || locks::lives(&book.shared.workers, u128::from_be_bytes(worker));
        Ok(*job != reader.job && book.now < until && lives() && !has_left(book, job, worker)?)
    }
}

/// Has the worker let go of the job that reads, by a panic for instance, without a word about the listing? Then the job has
/// ended, or its ticket waits for the next one who takes it.
fn has_left(book: &Book<'_>, job: &str, worker: [u8; 16]) -> Result<bool, Fault> {
    Ok(book
        .tx
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM jobs WHERE job = ?1 AND ended IS NOT NULL)
                 OR (EXISTS (SELECT 1 FROM messages WHERE job = ?1)
                     AND NOT EXISTS (SELECT 1 FROM messages WHERE job = ?1 AND taken_by = ?2))",
        )?
        .query_row((job, worker), |row| row.get(0))?)
}

fn under_way(book: &Book<'_>, account: &str) -> Result<Option<UnderWay>, Fault> {
    let found = book
        .tx
        .prepare_cached(
            "SELECT id, started_at, next, lease_job, lease_worker, lease_until FROM listings
              WHERE account = ?1 AND whole_at IS NULL ORDER BY started_at DESC LIMIT 1",
        )?
        .query_row([account], |row| {
            Ok(UnderWay {
                id: row.get(0)?,
                started_at: Moment::from_millis(row.get(1)?),
                next: row.get(2)?,
                job: row.get(3)?,
                worker: row.get(4)?,
                until: row.get::<_, Option<i64>>(5)?.map(Moment::from_millis),
            })
        })
        .optional()?;
    Ok(found)
}

fn join(book: &Book<'_>, reader: &Reader, not_before: Moment) -> Result<Listing, Fault> {
    let fresh = book.now.before(book.shared.options.listing_for);
    // A complete one first: it can prove absence, too.
    let whole: Option<bool> = book
        .tx
        .prepare_cached(
            "SELECT is_complete FROM listings
              WHERE account = ?1 AND whole_at >= ?2 AND started_at >= ?3
              ORDER BY is_complete DESC, started_at DESC LIMIT 1",
        )?
        .query_row((&reader.account, fresh.as_millis(), not_before.as_millis()), |row| row.get(0))
        .optional()?;
    if let Some(is_complete) = whole {
        return Ok(Listing::Whole { is_complete });
    }
    let known = under_way(book, &reader.account)?;
    if let Some(known) = &known
        && known.is_read_by_another(book, reader)?
    {
        return Ok(Listing::Read);
    }
    match known {
        Some(known) if known.started_at >= not_before => {
            lease(book, known.id, reader)?;
            Ok(Listing::Ours { next: known.next.map(PageLink) })
        }
        stale => {
            // Nobody reads it, and it began too early for this job; who needed it can use a newer one as well.
            if let Some(stale) = stale {
                book.tx.prepare_cached("DELETE FROM listings WHERE id = ?1")?.execute([stale.id])?;
            }
            book.tx
                .prepare_cached("INSERT INTO listings (account, started_at) VALUES (?1, ?2)")?
                .execute((&reader.account, book.now.as_millis()))?;
            lease(book, book.tx.last_insert_rowid(), reader)?;
            Ok(Listing::Ours { next: None })
        }
    }
}

fn lease(book: &Book<'_>, id: i64, reader: &Reader) -> Result<(), Fault> {
    let until = book.now.after(book.shared.options.listing_lease);
    book.tx
        .prepare_cached("UPDATE listings SET lease_job = ?2, lease_worker = ?3, lease_until = ?4 WHERE id = ?1")?
        .execute((id, &reader.job, reader.worker, until.as_millis()))?;
    Ok(())
}

fn leave(book: &Book<'_>, id: i64) -> Result<(), Fault> {
    book.tx
        .prepare_cached("UPDATE listings SET lease_job = NULL, lease_worker = NULL, lease_until = NULL WHERE id = ?1")?
        .execute([id])?;
    Ok(())
}

fn add(book: &Book<'_>, reader: &Reader, products: &[Product], next: Option<&str>) -> Result<bool, Fault> {
    let Some(known) = under_way(book, &reader.account)?.filter(|known| known.is_leased_by(reader)) else {
        return Ok(false);
    };
    let mut statement = book
        .tx
        .prepare_cached("INSERT OR REPLACE INTO listed (listing, product, name, body) VALUES (?1, ?2, ?3, ?4)")?;
    for product in products {
        let body = serde_json::to_string(product).map_err(Fault::unreadable("product"))?;
        statement.execute((known.id, product.id.to_string(), &product.name, body))?;
    }
    book.tx.prepare_cached("UPDATE listings SET next = ?2, failures = 0 WHERE id = ?1")?.execute((known.id, next))?;
    match next {
        Some(_) => lease(book, known.id, reader)?,
        None => end(book, known.id, &reader.account, true)?,
    }
    Ok(true)
}

/// The listing is whole. A complete one replaces all before it; an incomplete one the incomplete ones alone.
fn end(book: &Book<'_>, id: i64, account: &str, is_complete: bool) -> Result<(), Fault> {
    leave(book, id)?;
    book.tx.prepare_cached("UPDATE listings SET whole_at = ?2, is_complete = ?3 WHERE id = ?1")?.execute((
        id,
        book.now.as_millis(),
        is_complete,
    ))?;
    book.tx
        .prepare_cached("DELETE FROM listings WHERE account = ?1 AND id < ?2 AND (?3 OR is_complete = 0)")?
        .execute((account, id, is_complete))?;
    Ok(())
}

fn failed(book: &Book<'_>, reader: &Reader) -> Result<(), Fault> {
    let Some(known) = under_way(book, &reader.account)?.filter(|known| known.is_leased_by(reader)) else {
        return Ok(());
    };
    let failures: i64 = book
        .tx
        .prepare_cached("UPDATE listings SET failures = failures + 1 WHERE id = ?1 RETURNING failures")?
        .query_row([known.id], |row| row.get(0))?;
    let most = i64::from(book.shared.options.page_failures);
    if failures >= most { end(book, known.id, &reader.account, false) } else { leave(book, known.id) }
}

impl Worker {
    fn reader(&self, account: &AccountName, job: &JobKey) -> Reader {
        Reader { account: account.to_string(), job: job.to_string(), worker: self.id().to_be_bytes() }
    }
}

impl Listings for Worker {
    async fn join_listing(
        &self,
        account: &AccountName,
        not_before: Moment,
        job: &JobKey,
    ) -> Result<Listing, Unavailable> {
        let reader = self.reader(account, job);
        Ok(self.write(move |book| join(book, &reader, not_before)).await?)
    }

    async fn add_page(
        &self,
        account: &AccountName,
        job: &JobKey,
        products: &[Product],
        next: Option<&PageLink>,
    ) -> Result<bool, Unavailable> {
        let (reader, products) = (self.reader(account, job), products.to_vec());
        let next = next.map(|link| link.0.clone());
        Ok(self.write(move |book| add(book, &reader, &products, next.as_deref())).await?)
    }

    async fn page_failed(&self, account: &AccountName, job: &JobKey) -> Result<(), Unavailable> {
        let reader = self.reader(account, job);
        Ok(self.write(move |book| failed(book, &reader)).await?)
    }

    async fn leave_listing(&self, account: &AccountName, job: &JobKey) -> Result<(), Unavailable> {
        let reader = self.reader(account, job);
        let left = self.write(move |book| match under_way(book, &reader.account)? {
            Some(known) if known.is_leased_by(&reader) => leave(book, known.id),
            Some(_) | None => Ok(()),
        });
        Ok(left.await?)
    }

    async fn listed(&self, account: &AccountName, name: &str) -> Result<Vec<Product>, Unavailable> {
        let (account, name) = (account.to_string(), name.to_owned());
        let listed = self.look(move |connection, _| {
            let mut statement = connection.prepare_cached(
                "SELECT p.product, p.body FROM listings l JOIN listed p ON p.listing = l.id
                  WHERE l.account = ?1 AND l.whole_at IS NOT NULL AND p.name = ?2 ORDER BY l.started_at DESC, l.id DESC",
            )?;
            let rows = statement.query_map((account, name), |row| Ok((row.get(0)?, row.get(1)?)))?;
            let mut products: std::collections::BTreeMap<String, Product> = std::collections::BTreeMap::new();
            for row in rows {
                let (product, body): (String, String) = row?;
                if let std::collections::btree_map::Entry::Vacant(free) = products.entry(product) {
                    free.insert(serde_json::from_str(&body).map_err(Fault::unreadable("product"))?);
                }
            }
            Ok(products.into_values().collect())
        });
        Ok(listed.await?)
    }
}
