//! What people are shown of jobs, whatever home there is.

use std::collections::BTreeMap;

use super::{App, Fleet};
use crate::{
    domain::{
        ids::{AccountName, JobId, JobKey, ProductId},
        view::{JobFilter, JobSummary, JobView},
    },
    embedded::{self, Embedded},
    engine::ports::Unavailable,
    redis::Store,
};

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The home's file.
    #[error(transparent)]
    Home(#[from] embedded::Error),
    /// The memory.
    #[error(transparent)]
    Down(#[from] Unavailable),
}

/// The status view of a home.
#[derive(Debug, Clone, Copy)]
pub enum Views<'a> {
    /// In the file.
    File(&'a Embedded),
    /// In the fleet's memory: what was lost fills again as jobs move.
    Fleet(&'a Store),
}

impl<'a> From<&'a App> for Views<'a> {
    fn from(app: &'a App) -> Self {
        Self::File(&app.home)
    }
}

impl<'a> From<&'a Fleet> for Views<'a> {
    fn from(fleet: &'a Fleet) -> Self {
        Self::Fleet(fleet.memory())
    }
}

impl Views<'_> {
    /// The jobs that pass the filter, newest first.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn jobs(&self, filter: JobFilter) -> Result<Vec<JobSummary>, Error> {
        Ok(match self {
            Self::File(home) => home.jobs(filter).await?,
            Self::Fleet(memory) => memory.jobs(&filter).await?,
        })
    }

    /// All that is known of one job; none when nobody knows it.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn job(&self, job: &JobKey) -> Result<Option<JobView>, Error> {
        Ok(match self {
            Self::File(home) => home.job(job).await?,
            Self::Fleet(memory) => memory.job(job).await?,
        })
    }

    /// The jobs that made or adopted these products, by the products' ids, as far as they are remembered.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn makers(&self, account: &AccountName, products: &[ProductId]) -> Result<BTreeMap<u64, JobKey>, Error> {
        let made = match self {
            Self::File(home) => home.owned(account).await?,
            Self::Fleet(memory) => memory.owners(account, products).await?,
        };
        Ok(made.into_iter().map(|(product, job)| (product.get(), job)).collect())
    }

    /// The jobs of this id, of whatever accounts.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn named(&self, id: &JobId) -> Result<Vec<JobKey>, Error> {
        Ok(match self {
            Self::File(home) => home.named(id).await?,
            Self::Fleet(memory) => memory.named(id).await?,
        })
    }
}
