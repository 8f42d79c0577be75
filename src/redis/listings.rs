//! Listings of an account's products: read once for all who wait, page by page.

use std::collections::{BTreeMap, btree_map::Entry};

use super::{Store, foreign, millis};
use crate::{
    domain::{
        ids::{AccountName, JobKey, Sha256},
        service::{PageLink, Product},
        time::Moment,
    },
    engine::ports::{Listing, Listings, Unavailable},
};

impl Store {
    fn listing(&self, account: &AccountName) -> String {
        self.key("list", account.as_str())
    }

    async fn ask(
        &self,
        verb: &str,
        account: &AccountName,
        job: &JobKey,
        more: impl IntoIterator<Item = String>,
    ) -> Result<Vec<String>, Unavailable> {
        let (listing, options) = (self.listing(account), self.options());
        let mut call = self.inner.scripts.listing.prepare_invoke();
        call.key(self.born()).key(&listing).key(format!("{listing}:whole")).key(format!("{listing}:partial"));
        call.key(self.key("job", ""));
        call.arg(verb).arg(job.to_string()).arg(millis(options.listing_lease)).arg(millis(options.listing_for));
        for argument in more {
            call.arg(argument);
        }
        self.run("listing", &mut call).await
    }
}

/// A product's name as part of a key: names are anything.
fn word(name: &str) -> String {
    Sha256::of(name.as_bytes()).to_string()
}

impl Listings for Store {
    async fn join_listing(
        &self,
        account: &AccountName,
        not_before: Moment,
        job: &JobKey,
    ) -> Result<Listing, Unavailable> {
        let answer = self.ask("join", account, job, [not_before.as_millis().to_string()]).await?;
        match answer.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["whole", is_complete] => Ok(Listing::Whole { is_complete: *is_complete == "1" }),
            ["read"] => Ok(Listing::Read),
            ["ours", ""] => Ok(Listing::Ours { next: None }),
            ["ours", next] => Ok(Listing::Ours { next: Some(PageLink((*next).to_owned())) }),
            _ => Err(foreign("a listing")),
        }
    }

    async fn add_page(
        &self,
        account: &AccountName,
        job: &JobKey,
        products: &[Product],
        next: Option<&PageLink>,
    ) -> Result<bool, Unavailable> {
        let mut more = vec![next.map(|link| link.0.clone()).unwrap_or_default()];
        for product in products {
            let body = serde_json::to_string(product).map_err(|error| Unavailable {
                what: "memory",
                why: format!("a product cannot be written: {error}"),
            })?;
            more.extend([word(&product.name), product.id.to_string(), body]);
        }
        let answer = self.ask("page", account, job, more).await?;
        Ok(answer.first().is_some_and(|word| word == "done"))
    }

    async fn page_failed(&self, account: &AccountName, job: &JobKey) -> Result<(), Unavailable> {
        self.ask("failed", account, job, [self.options().page_failures.to_string()]).await.map(|_| ())
    }

    async fn leave_listing(&self, account: &AccountName, job: &JobKey) -> Result<(), Unavailable> {
        self.ask("leave", account, job, []).await.map(|_| ())
    }

    async fn listed(&self, account: &AccountName, name: &str) -> Result<Vec<Product>, Unavailable> {
        let listing = self.listing(account);
        let mut call = self.inner.scripts.listed.prepare_invoke();
        call.key(self.born()).key(format!("{listing}:whole")).key(format!("{listing}:partial"));
        call.arg(&listing).arg(word(name));
        let answer: Vec<String> = self.run("listed", &mut call).await?;
        // The newer listing comes first: what it says of a product counts.
        let mut products: BTreeMap<String, Product> = BTreeMap::new();
        for pair in answer.chunks_exact(2) {
            let [id, body] = pair else { continue };
            if let Entry::Vacant(free) = products.entry(id.clone()) {
                free.insert(serde_json::from_str(body).map_err(|_| foreign("a listed product"))?);
            }
        }
        Ok(products.into_values().collect())
    }
}
