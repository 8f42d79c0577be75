//! Canaries that came back: noted by whoever received them, read by who let them fly.

use super::Store;
use crate::engine::ports::Unavailable;

/// How long it is remembered, in milliseconds: longer than anybody waits for one.
const REMEMBERED: u64 = 60_000;

impl Store {
    /// Says that a canary with this id is awaited: what nobody awaits is not noted, whoever sent it.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn await_canary(&self, id: &str) -> Result<(), Unavailable> {
        let mut set = redis::cmd("SET");
        set.arg(self.key("canary", id)).arg("").arg("PX").arg(REMEMBERED);
        self.inner.link.query(&set).await
    }

    /// Notes that the canary with this id has come over this lane.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn note_canary(&self, id: &str, lane: &str) -> Result<(), Unavailable> {
        let mut set = redis::cmd("SET");
        set.arg(self.key("canary", id)).arg(lane).arg("PX").arg(REMEMBERED).arg("XX");
        self.inner.link.query(&set).await.map(|_: Option<String>| ())
    }

    /// Which of these canaries have come over the lane that each was sent to, in their order.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn canaries_back(&self, awaited: &[(&str, &str)]) -> Result<Vec<bool>, Unavailable> {
        if awaited.is_empty() {
            return Ok(Vec::new());
        }
        let mut get = redis::cmd("MGET");
        for (id, _) in awaited {
            get.arg(self.key("canary", id));
        }
        let noted: Vec<Option<String>> = self.inner.link.query(&get).await?;
        Ok(noted.iter().zip(awaited).map(|(came, (_, lane))| came.as_deref() == Some(lane)).collect())
    }
}
