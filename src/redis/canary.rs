//! Canaries that came back: noted by whoever received them, read by who let them fly.

use super::Store;
use crate::engine::ports::Unavailable;

/// How long it is remembered, in milliseconds: longer than anybody waits for one.
const REMEMBERED: u64 = 60_000;

impl Store {
    /// Notes that the canary with this id has come.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn note_canary(&self, id: &str) -> Result<(), Unavailable> {
        let mut set = redis::cmd("SET");
        set.arg(self.key("canary", id)).arg(1).arg("PX").arg(REMEMBERED);
        self.inner.link.query(&set).await
    }

    /// Which of these canaries have come, in their order.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn canaries_back(&self, ids: &[&str]) -> Result<Vec<bool>, Unavailable> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut get = redis::cmd("MGET");
        for id in ids {
            get.arg(self.key("canary", id));
        }
        let noted: Vec<Option<u8>> = self.inner.link.query(&get).await?;
        Ok(noted.into_iter().map(|note| note.is_some()).collect())
    }
}
