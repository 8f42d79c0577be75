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

impl Store {
    fn scope(&self, account: &AccountName) -> Scope {
        let known = self.options().accounts.get(account).cloned();
        known.unwrap_or_else(|| Scope { name: account.to_string(), limits: Limits::default() })
    }

    /// A call of the bucket's script, up to what the verb itself asks for. `now`: the server's clock when it is none.
    fn bucket(&self, verb: &str, scope: &Scope, class: QuotaClass, now: Option<Moment>) -> ScriptInvocation<'_> {
        let limits = &scope.limits;
        let share = match class {
            QuotaClass::Write | QuotaClass::Look => 1.0,
            QuotaClass::Download => limits.download_share,
            QuotaClass::Poll => limits.poll_share,
        };
        let mut call = self.inner.scripts.quota.prepare_invoke();
        call.key(self.key("rl", &Sha256::of(scope.name.as_bytes()).to_string()));
        call.arg(verb).arg(now.map_or_else(String::new, |now| now.as_millis().to_string()));
        // Nothing that a bucket holds matters for longer: the learned rate has grown back, the longest gate has opened.
        call.arg(millis(Duration::from_hours(48)));
        call.arg(limits.calls_per_minute).arg(share).arg(micros(limits.ahead));
        call.arg(millis(limits.wait_min)).arg(millis(limits.wait_max)).arg(millis(limits.waiting_memory));
        call.arg(limits.floor_per_minute).arg(limits.slow_down).arg(limits.recovery_per_minute);
        call.arg(limits.failures_to_close).arg(millis(limits.close_for_min)).arg(millis(limits.close_for_max));
        call
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn moment(text: Option<&String>) -> Result<Moment, Unavailable> {
    let text = text.ok_or_else(|| foreign("a bucket"))?;
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
        let scope = self.scope(account);
        let mut call = self.bucket("admit", &scope, class, None);
        call.arg(number(class)).arg(refusals).arg(chance);
        let answer: Vec<String> = self.run(&mut call).await?;
        let at = moment(answer.get(1))?;
        match answer.first().map(String::as_str) {
            Some("granted") => Ok(Admission::Granted { at }),
            Some("gate") => Ok(Admission::Refused { until: at, by_gate: true }),
            Some("wait") => Ok(Admission::Refused { until: at, by_gate: false }),
            _ => Err(foreign("a bucket")),
        }
    }

    async fn throttled(&self, account: &AccountName, pause: Duration) -> Result<Moment, Unavailable> {
        let scope = self.scope(account);
        let mut call = self.bucket("throttled", &scope, QuotaClass::Write, None);
        call.arg(millis(pause));
        let answer: Vec<String> = self.run(&mut call).await?;
        moment(answer.get(1))
    }

    async fn paused_until(&self, account: &AccountName) -> Result<Moment, Unavailable> {
        let scope = self.scope(account);
        let mut call = self.bucket("paused", &scope, QuotaClass::Write, None);
        let answer: Vec<String> = self.run(&mut call).await?;
        moment(answer.get(1))
    }

    async fn failed(&self, account: &AccountName) -> Result<Option<Moment>, Unavailable> {
        let scope = self.scope(account);
        let mut call = self.bucket("failed", &scope, QuotaClass::Write, None);
        let answer: Vec<String> = self.run(&mut call).await?;
        answer.get(1).map(|at| moment(Some(at))).transpose()
    }

    async fn succeeded(&self, account: &AccountName) -> Result<(), Unavailable> {
        let scope = self.scope(account);
        let mut call = self.bucket("succeeded", &scope, QuotaClass::Write, None);
        let answer: Result<Vec<String>, Unavailable> = self.run(&mut call).await;
        answer.map(|_| ())
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
