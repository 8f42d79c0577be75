//! The accounts' rates: one bucket per account, shared by all workers on the file.

use rusqlite::{Connection, OptionalExtension};

use super::{Embedded, Worker, count, error::Fault, file::Book, queue};
use crate::{
    domain::{
        ids::AccountName,
        quota::{Admission, Bucket, Limits},
        step::QuotaClass,
        time::Moment,
    },
    engine::ports::{Quota, Unavailable},
};

pub(super) fn load(connection: &Connection, account: &str) -> Result<Bucket, Fault> {
    let body: Option<String> = connection
        .prepare_cached("SELECT body FROM buckets WHERE account = ?1")?
        .query_row([account], |row| row.get(0))
        .optional()?;
    body.map_or_else(|| Ok(Bucket::default()), |body| serde_json::from_str(&body).map_err(Fault::unreadable("quota")))
}

fn store(book: &Book<'_>, account: &str, bucket: &Bucket) -> Result<(), Fault> {
    let body = serde_json::to_string(bucket).map_err(Fault::unreadable("quota"))?;
    book.tx
        .prepare_cached(
            "INSERT INTO buckets (account, body) VALUES (?1, ?2) ON CONFLICT (account) DO UPDATE SET body = ?2",
        )?
        .execute((account, body))?;
    Ok(())
}

impl Embedded {
    fn limits(&self, account: &AccountName) -> Limits {
        self.inner.shared.options.limits.get(account).copied().unwrap_or_default()
    }

    /// Changes the account's bucket in one transaction.
    async fn with_bucket<T: Send + 'static>(
        &self,
        account: &AccountName,
        change: impl FnOnce(&mut Bucket, Moment) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        let account = account.to_string();
        let changed = self.write(move |book| {
            let mut bucket = load(book.tx, &account)?;
            let outcome = change(&mut bucket, book.now);
            store(book, &account, &bucket)?;
            Ok(outcome)
        });
        Ok(changed.await?)
    }
}

impl Quota for Worker {
    async fn permit(
        &self,
        account: &AccountName,
        class: QuotaClass,
        refusals: u32,
        chance: f64,
    ) -> Result<Admission, Unavailable> {
        let limits = self.limits(account);
        self.with_bucket(account, move |bucket, now| bucket.admit(now, class, refusals, &limits, chance)).await
    }

    async fn throttled(&self, account: &AccountName, pause: std::time::Duration) -> Result<Moment, Unavailable> {
        let limits = self.limits(account);
        let told = move |bucket: &mut Bucket, now: Moment| {
            bucket.throttled(now, now.after(pause), &limits);
            bucket.paused_until()
        };
        self.with_bucket(account, told).await
    }

    async fn paused_until(&self, account: &AccountName) -> Result<Moment, Unavailable> {
        let account = account.to_string();
        Ok(self.look(move |connection, _| Ok(load(connection, &account)?.paused_until())).await?)
    }

    async fn failed(&self, account: &AccountName) -> Result<Option<Moment>, Unavailable> {
        let limits = self.limits(account);
        self.with_bucket(account, move |bucket, now| bucket.failed(now, &limits)).await
    }

    async fn succeeded(&self, account: &AccountName) -> Result<(), Unavailable> {
        let name = account.to_string();
        let is_troubled = self.look(move |connection, _| Ok(load(connection, &name)?.is_troubled())).await?;
        if is_troubled {
            self.with_bucket(account, |bucket, _| bucket.succeeded()).await?;
        }
        Ok(())
    }

    async fn polls_in_flight(&self, account: &AccountName) -> Result<u64, Unavailable> {
        let account = account.to_string();
        Ok(self.look(move |connection, _| Ok(count(queue::polls(connection, &account)?))).await?)
    }

    fn polls_per_minute(&self, account: &AccountName) -> f64 {
        let limits = self.limits(account);
        limits.calls_per_minute * limits.poll_share
    }
}
