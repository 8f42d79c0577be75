//! Sealed tokens for the whole fleet, and the lease to renew one. Opening and sealing is done elsewhere.

use std::time::Duration;

use super::{Store, millis};
use crate::{domain::time::Moment, engine::ports::Unavailable, telemetry::Lookup};

impl Store {
    /// The sealed token under this word, unless it has expired.
    ///
    /// # Errors
    /// [`Unavailable`]: the process serves itself.
    pub async fn load_token(&self, word: &str) -> Result<Option<Vec<u8>>, Unavailable> {
        let mut get = redis::cmd("GET");
        get.arg(self.key("tok", word));
        let found: Result<Option<Vec<u8>>, Unavailable> = self.inner.link.query(&get).await;
        self.options().metrics.token_lookup(match &found {
            Ok(Some(_)) => Lookup::Hit,
            Ok(None) => Lookup::Miss,
            Err(_) => Lookup::Failed,
        });
        found
    }

    /// Keeps a sealed token until it expires.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn store_token(&self, word: &str, sealed: &[u8], expires: Moment) -> Result<(), Unavailable> {
        let mut set = redis::cmd("SET");
        set.arg(self.key("tok", word)).arg(sealed).arg("PXAT").arg(expires.as_millis().max(1));
        self.inner.link.query(&set).await
    }

    /// Takes, or prolongs, the right to renew the token under this word; false when another has it.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn lease_token(&self, word: &str, owner: u128, span: Duration) -> Result<bool, Unavailable> {
        self.lease("take", word, owner, span).await
    }

    /// Gives the right to renew back; nothing when another has it.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn release_token(&self, word: &str, owner: u128) -> Result<(), Unavailable> {
        self.lease("give-back", word, owner, Duration::ZERO).await.map(|_| ())
    }

    async fn lease(&self, verb: &str, word: &str, owner: u128, span: Duration) -> Result<bool, Unavailable> {
        let mut call = self.inner.scripts.lease.prepare_invoke();
        call.key(self.key("lock:tok", word)).arg(verb).arg(format!("{owner:032x}")).arg(millis(span).max(1));
        self.run("lease", &mut call).await.map(|held: u8| held == 1)
    }
}
