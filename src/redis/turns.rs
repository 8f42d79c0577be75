//! Turns that jobs take, and facts about who made what.

use super::{Store, foreign, millis};
use crate::{
    domain::{
        ids::{AccountName, JobKey, ProductId, Sha256},
        time::Moment,
    },
    engine::ports::{Turn, TurnKey, Turns, Unavailable},
};

/// So many products' makers are asked for in one go.
const OWNERS: usize = 500;

impl Store {
    fn turn_key(&self, key: &TurnKey) -> String {
        match key {
            // A product's name is anything: its hash makes a key of one length.
            TurnKey::Name(account, name) => {
                self.key("turn", &format!("{account}/name:{}", Sha256::of(name.as_bytes())))
            }
            TurnKey::Product(account, product) => self.key("turn", &format!("{account}/{product}")),
        }
    }

    async fn turn(
        &self,
        verb: &str,
        key: &TurnKey,
        job: &JobKey,
        stamp: Option<Moment>,
    ) -> Result<Vec<String>, Unavailable> {
        let span = millis(self.options().turn_for);
        let mut call = self.inner.scripts.turn.prepare_invoke();
        call.key(self.born()).key(self.turn_key(key)).arg(verb).arg(job.to_string()).arg(span);
        // Remembered for longer than it holds: a mark that ran out proves again once its own job has it again.
        call.arg(span.saturating_mul(72)).arg(stamp.map_or_else(String::new, |at| at.as_millis().to_string()));
        self.run("turn", &mut call).await
    }

    /// Who made or adopted these products, as far as it is remembered.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn owners(
        &self,
        account: &AccountName,
        products: &[ProductId],
    ) -> Result<Vec<(ProductId, JobKey)>, Unavailable> {
        let mut found = Vec::new();
        for batch in products.chunks(OWNERS) {
            let mut get = redis::cmd("MGET");
            for product in batch {
                get.arg(self.owner_key(account, *product));
            }
            let owners: Vec<Option<String>> = self.inner.link.query(&get).await?;
            let known = batch.iter().zip(owners);
            found.extend(known.filter_map(|(product, job)| Some((*product, JobKey::parse(&job?)?))));
        }
        Ok(found)
    }

    fn owner_key(&self, account: &AccountName, product: ProductId) -> String {
        self.key("own", &format!("{account}/{product}"))
    }
}

impl Turns for Store {
    async fn take_turn(&self, key: &TurnKey, job: &JobKey) -> Result<Turn, Unavailable> {
        let answer = self.turn("take", key, job, None).await?;
        match answer.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["held"] => Ok(Turn::Held),
            ["ours", ""] => Ok(Turn::Ours { begun_at: None }),
            ["ours", at] => {
                let at = at.parse().map_err(|_| foreign("a turn"))?;
                Ok(Turn::Ours { begun_at: Some(Moment::from_millis(at)) })
            }
            _ => Err(foreign("a turn")),
        }
    }

    async fn stamp_turn(&self, key: &TurnKey, job: &JobKey, begun_at: Moment) -> Result<bool, Unavailable> {
        Ok(self.turn("stamp", key, job, Some(begun_at)).await?.first().is_some_and(|word| word == "ours"))
    }

    async fn end_turn(&self, key: &TurnKey, job: &JobKey, begun_at: Option<Moment>) -> Result<(), Unavailable> {
        self.turn("end", key, job, begun_at).await.map(|_| ())
    }

    async fn own(&self, account: &AccountName, product: ProductId, job: &JobKey) -> Result<(), Unavailable> {
        let mut call = self.inner.scripts.own.prepare_invoke();
        call.key(self.owner_key(account, product)).arg(job.to_string()).arg(millis(self.options().retention));
        self.run("own", &mut call).await.map(|_: u8| ())
    }

    async fn owner(&self, account: &AccountName, product: ProductId) -> Result<Option<JobKey>, Unavailable> {
        let mut get = redis::cmd("GET");
        get.arg(self.owner_key(account, product));
        let owner: Option<String> = self.inner.link.query(&get).await?;
        Ok(owner.as_deref().and_then(JobKey::parse))
    }
}
