//! The signed URL in use, and when to ask for another.
//!
//! After a 403: once per distinct URL, three times in all. Before its end, by the service's own clock: once per URL, when
//! less time is left than the margin or the rest of the work needs. Source: contract/blob-upload.md, sections 8 and 10.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::time::timeout;

use super::{Hooks, Settings, sas::Sas, transient, trouble::Trouble};
use crate::{
    clock,
    domain::failure::{Cause, Failure, Kind},
};

/// What the caller may need to read a submission again, its own queueing included.
const PATIENCE: Duration = Duration::from_mins(10);

pub(super) struct Renewal<'a, H> {
    settings: &'a Settings,
    hooks: &'a H,
    sas: Arc<Sas>,
    /// The service's clock at an instant of ours.
    heard: Option<(Timestamp, Instant)>,
    renewals: u32,
    /// The URL in use has worked at least once.
    has_worked: bool,
    /// The URL in use was asked to be replaced before its end already.
    was_early: bool,
    lifetime: Duration,
    took: Duration,
}

impl<'a, H: Hooks> Renewal<'a, H> {
    pub(super) async fn begin(settings: &'a Settings, hooks: &'a H) -> Result<Self, Failure> {
        let sas = fresh(hooks).await?;
        let lifetime = sas.time_left(clock::now()).unwrap_or_default();
        Ok(Self {
            settings,
            hooks,
            sas: Arc::new(sas),
            heard: None,
            renewals: 0,
            has_worked: false,
            was_early: false,
            lifetime,
            took: Duration::ZERO,
        })
    }

    pub(super) fn sas(&self) -> &Sas {
        &self.sas
    }

    pub(super) fn shared(&self) -> Arc<Sas> {
        Arc::clone(&self.sas)
    }

    /// An answer came; `is_good` when the URL was accepted.
    pub(super) fn heard(&mut self, date: Option<Timestamp>, is_good: bool) {
        if let Some(date) = date {
            self.heard = Some((date, clock::monotonic()));
        }
        self.has_worked |= is_good;
    }

    /// One block took this long.
    pub(super) fn took(&mut self, took: Duration) {
        self.took = took;
    }

    /// Is it time for another URL, with so many blocks to go?
    pub(super) fn is_near_end(&self, blocks: u32, lanes: usize) -> bool {
        let Some(left) = self.now().and_then(|now| self.sas.time_left(now)) else { return false };
        let lanes = u32::try_from(lanes.max(1)).unwrap_or(u32::MAX);
        let work = self.took.saturating_mul(2).saturating_mul(blocks) / lanes;
        // Half of the lifetime at most: a short-lived URL is used, too.
        let margin = self.settings.renew_margin.max(work).min(self.lifetime / 2);
        !self.was_early && left < margin
    }

    /// The service's clock.
    fn now(&self) -> Option<Timestamp> {
        let (date, at) = self.heard?;
        date.checked_add(at.elapsed()).ok()
    }

    /// Another URL before this one ends; when the service gives no later one, this one is used to its end.
    pub(super) async fn early(&mut self) -> Result<(), Failure> {
        let sas = fresh(self.hooks).await?;
        let is_later = sas.expires() > self.sas.expires();
        self.adopt(sas);
        self.was_early = !is_later;
        Ok(())
    }

    /// Another URL because this one was refused.
    pub(super) async fn after_refusal(&mut self, trouble: &Trouble) -> Result<(), Failure> {
        let is_over = self.now().zip(self.sas.expires()).is_some_and(|(now, end)| now >= end);
        if self.renewals >= self.settings.max_renewals {
            // A URL that worked for a while is no riddle: go on later. One that never did is.
            return Err(if self.has_worked { trouble.transient() } else { refused(trouble, is_over) });
        }
        let sas = fresh(self.hooks).await?;
        if sas == *self.sas {
            return Err(refused(trouble, is_over));
        }
        self.renewals += 1;
        self.adopt(sas);
        Ok(())
    }

    fn adopt(&mut self, sas: Sas) {
        let now = self.now().unwrap_or_else(clock::now);
        self.lifetime = sas.time_left(now).unwrap_or_default();
        self.sas = Arc::new(sas);
        self.has_worked = false;
        self.was_early = false;
    }
}

async fn fresh<H: Hooks>(hooks: &H) -> Result<Sas, Failure> {
    match timeout(PATIENCE, hooks.fresh_url()).await {
        Ok(url) => Sas::parse(&url?),
        Err(_) => Err(transient(Kind::Timeout, "no signed URL came in time")),
    }
}

fn refused(trouble: &Trouble, is_over: bool) -> Failure {
    let hint = if is_over { "it had ended" } else { "it had not ended: suspect this machine's clock or a changed URL" };
    let cause = Cause { kind: Kind::SasExpired, ..trouble.cause() };
    Failure::Permanent(Cause { message: format!("{}; the signed URL stays refused, {hint}", cause.message), ..cause })
}
