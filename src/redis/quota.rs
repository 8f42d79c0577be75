//! The accounts' rates: one bucket per quota scope, on the server's clock.

use std::time::Duration;

use redis::ScriptInvocation;

use super::{Scope, Store, foreign, millis};
use crate::{
    domain::{
        ids::{AccountName, Sha256},
        quota::{Admission, Limits},
        step::QuotaClass,
        time::Moment,
    },
    engine::ports::{Quota, Unavailable},
};

/// A longer pause than this is cut: no number of it fits what the server counts with.
const LONGEST_PAUSE: Duration = Duration::from_hours(24 * 366);

/// An answer of a bucket, with what every answer tells besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told<T> {
    /// The answer.
    pub answer: T,
    /// The memory's clock.
    pub now: Moment,
    /// Until when the service asked for a pause; an instant that has passed when it did not.
    pub pause: Moment,
}

impl Store {
    pub(super) fn scope(&self, account: &AccountName) -> Scope {
        let known = self.options().accounts.get(account).cloned();
        known.unwrap_or_else(|| Scope { name: account.to_string(), limits: Limits::default() })
    }

    /// A call of the bucket's script, up to what the verb itself asks for.
    fn bucket(&self, verb: &str, account: &AccountName, class: QuotaClass) -> ScriptInvocation<'_> {
        let Scope { name, limits } = self.scope(account);
        let share = match class {
            QuotaClass::Write | QuotaClass::Look => 1.0,
            QuotaClass::Download => limits.download_share,
            QuotaClass::Poll => limits.poll_share,
        };
        let mut call = self.inner.scripts.quota.prepare_invoke();
        call.key(self.key("rl", &Sha256::of(name.as_bytes()).to_string())).arg(verb);
        // Nothing that a bucket holds matters for longer, but a longer pause: the learned rate has grown back by then.
        call.arg(millis(Duration::from_hours(48)));
        call.arg(limits.calls_per_minute).arg(share).arg(micros(limits.ahead));
        call.arg(millis(limits.wait_min)).arg(millis(limits.wait_max)).arg(millis(limits.waiting_memory));
        call.arg(limits.floor_per_minute).arg(limits.slow_down).arg(limits.recovery_per_minute);
        call.arg(limits.failures_to_close).arg(millis(limits.close_for_min)).arg(millis(limits.close_for_max));
        call
    }

    async fn told(&self, call: &mut ScriptInvocation<'_>) -> Result<Told<(String, Option<Moment>)>, Unavailable> {
        let answer: Vec<String> = self.run("quota", call).await?;
        let [word, at, now, pause] = answer.as_slice() else { return Err(foreign("a bucket")) };
        let at = if at.is_empty() { None } else { Some(moment(at)?) };
        Ok(Told { answer: (word.clone(), at), now: moment(now)?, pause: moment(pause)? })
    }

    /// As [`Quota::permit`], with the memory's clock.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn ask_permit(
        &self,
        account: &AccountName,
        class: QuotaClass,
        refusals: u32,
        chance: f64,
    ) -> Result<Told<Admission>, Unavailable> {
        let mut call = self.bucket("admit", account, class);
        call.arg(number(class)).arg(refusals).arg(chance);
        let told = self.told(&mut call).await?;
        let answer = match &told.answer {
            (word, Some(at)) if word == "granted" => Admission::Granted { at: *at },
            (word, Some(at)) if word == "gate" => Admission::Refused { until: *at, by_gate: true },
            (word, Some(at)) if word == "wait" => Admission::Refused { until: *at, by_gate: false },
            _ => return Err(foreign("a bucket")),
        };
        Ok(Told { answer, now: told.now, pause: told.pause })
    }

    /// As [`Quota::throttled`], with the memory's clock.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn tell_throttled(&self, account: &AccountName, pause: Duration) -> Result<Told<Moment>, Unavailable> {
        let mut call = self.bucket("throttled", account, QuotaClass::Write);
        call.arg(millis(pause.min(LONGEST_PAUSE)));
        instant(&self.told(&mut call).await?)
    }

    /// As [`Quota::paused_until`], with the memory's clock.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn ask_pause(&self, account: &AccountName) -> Result<Told<Moment>, Unavailable> {
        instant(&self.told(&mut self.bucket("paused", account, QuotaClass::Write)).await?)
    }

    /// As [`Quota::failed`], with the memory's clock.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn tell_failed(&self, account: &AccountName) -> Result<Told<Option<Moment>>, Unavailable> {
        let told = self.told(&mut self.bucket("failed", account, QuotaClass::Write)).await?;
        Ok(Told { answer: told.answer.1, now: told.now, pause: told.pause })
    }

    /// As [`Quota::succeeded`], with the memory's clock.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn tell_succeeded(&self, account: &AccountName) -> Result<Told<()>, Unavailable> {
        let told = self.told(&mut self.bucket("succeeded", account, QuotaClass::Write)).await?;
        Ok(Told { answer: (), now: told.now, pause: told.pause })
    }
}

fn instant(told: &Told<(String, Option<Moment>)>) -> Result<Told<Moment>, Unavailable> {
    let answer = told.answer.1.ok_or_else(|| foreign("a bucket"))?;
    Ok(Told { answer, now: told.now, pause: told.pause })
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn moment(text: &str) -> Result<Moment, Unavailable> {
    text.parse().map(Moment::from_millis).map_err(|_| foreign("a bucket"))
}

const fn number(class: QuotaClass) -> u8 {
    match class {
        QuotaClass::Write => 0,
        QuotaClass::Download => 1,
        QuotaClass::Poll => 2,
        QuotaClass::Look => 3,
    }
}

impl Quota for Store {
    async fn permit(
        &self,
        account: &AccountName,
        class: QuotaClass,
        refusals: u32,
        chance: f64,
    ) -> Result<Admission, Unavailable> {
        Ok(self.ask_permit(account, class, refusals, chance).await?.answer)
    }

    async fn throttled(&self, account: &AccountName, pause: Duration) -> Result<Moment, Unavailable> {
        Ok(self.tell_throttled(account, pause).await?.answer)
    }

    async fn paused_until(&self, account: &AccountName) -> Result<Moment, Unavailable> {
        Ok(self.ask_pause(account).await?.answer)
    }

    async fn failed(&self, account: &AccountName) -> Result<Option<Moment>, Unavailable> {
        Ok(self.tell_failed(account).await?.answer)
    }

    async fn succeeded(&self, account: &AccountName) -> Result<(), Unavailable> {
        self.tell_succeeded(account).await.map(|_| ())
    }

    async fn polls_in_flight(&self, account: &AccountName) -> Result<u64, Unavailable> {
        let mut count = redis::cmd("ZCARD");
        count.arg(self.polls(account));
        self.inner.link.query(&count).await
    }

    fn polls_per_minute(&self, account: &AccountName) -> f64 {
        let limits = self.scope(account).limits;
        limits.calls_per_minute * limits.poll_share
    }
}
