//! The accounts' rates as one process knows them: the memory's word, and while it gives none, a share of the rate.
//!
//! Promises: a memory that does not answer never fails a call here. Each process then serves itself with the account's rate
//! divided by the number of processes that there may be, from a bucket of its own, and its first slot there counts as used.
//! A pause of the service that this process has seen holds to its end, whatever the memory says or forgets meanwhile, and
//! a memory that has forgotten it is told again. A silent memory is asked by one caller at a time, every other second.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Store, Told};
use crate::{
    clock,
    domain::{
        ids::AccountName,
        quota::{Admission, Bucket, Limits},
        retry::scaled,
        step::QuotaClass,
        time::Moment,
    },
    engine::ports::{Quota, Unavailable},
    telemetry::{Decider, GateCause},
};

/// A memory that did not answer is asked again after so long, by one caller.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// The rates of all accounts, for one process.
#[derive(Debug)]
pub struct Rates {
    store: Store,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The memory's clock when it last answered, without what tests move, and ours.
    heard: Option<(Moment, Duration)>,
    /// The memory does not answer, and nobody asks it before, by our clock.
    silent_until: Option<Duration>,
    /// Grows each time that it falls silent.
    silences: u64,
    /// By scope: accounts of one scope share one rate here, too.
    own: BTreeMap<String, Own>,
    /// What it last said of an account's polls.
    polls: BTreeMap<AccountName, u64>,
}

/// What this process keeps of one scope.
#[derive(Debug, Default)]
struct Own {
    bucket: Bucket,
    /// The service asked for a pause until then.
    pause: Moment,
    /// The silence in which the bucket was last asked.
    silence: u64,
}

impl Own {
    fn pause_until(&mut self, now: Moment, until: Moment, limits: &Limits) {
        if until > now {
            self.pause = self.pause.max(until);
            self.bucket.throttled(now, until, limits);
        }
    }
}

/// What one of `processes` may use of an account's rate.
fn share(limits: Limits, processes: u32) -> Limits {
    let processes = f64::from(processes.max(1));
    Limits {
        calls_per_minute: limits.calls_per_minute / processes,
        floor_per_minute: limits.floor_per_minute / processes,
        ..limits
    }
}

impl Rates {
    /// The rates that this memory keeps.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, state: Mutex::default() }
    }

    /// The lock is never held across an await, and what it guards is whole after every statement.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory, unless it is silent and somebody has asked it a moment ago.
    fn memory(&self) -> Option<&Store> {
        let (now, mut state) = (clock::boot_time(), self.state());
        match &mut state.silent_until {
            Some(until) if now < *until => return None,
            // ORDER: the next one to ask is put off before this one asks: its time-out is no other caller's.
            Some(until) => *until = now.saturating_add(ASK_AGAIN),
            None => {}
        }
        Some(&self.store)
    }

    /// The memory's word, and what its clock is; none when it gives none.
    fn heard<T>(&self, answer: Result<T, Unavailable>, now: impl Fn(&T) -> Option<Moment>) -> Option<T> {
        let mut state = self.state();
        match answer {
            Ok(answer) => {
                if state.silent_until.take().is_some() {
                    tracing::info!("the memory answers again; the accounts' rates are shared");
                }
                if let Some(now) = now(&answer) {
                    let unmoved = now.as_millis().saturating_sub(self.store.options().shift.millis());
                    state.heard = Some((Moment::from_millis(unmoved), clock::boot_time()));
                }
                Some(answer)
            }
            Err(down) => {
                if state.silent_until.is_none() {
                    state.silences += 1;
                    let processes = self.store.options().max_workers;
                    tracing::warn!(%down, processes, "this process calls at its share of the accounts' rates");
                }
                state.silent_until = Some(clock::boot_time().saturating_add(ASK_AGAIN));
                None
            }
        }
    }

    /// What a bucket of the memory told; none when it does not answer.
    fn told<T>(&self, account: &AccountName, answer: Result<Told<T>, Unavailable>) -> Option<Told<T>> {
        let told = self.heard(answer, |told| Some(told.now))?;
        self.with_own(account, |own, _, limits| own.pause_until(told.now, told.pause, limits));
        Some(told)
    }

    /// The memory's clock, as far as can be told without asking it.
    fn now(&self, state: &State) -> Moment {
        let moved =
            |at: Moment| Moment::from_millis(at.as_millis().saturating_add(self.store.options().shift.millis()));
        match state.heard {
            Some((at, ours)) => moved(at.after(clock::boot_time().saturating_sub(ours))),
            None => moved(clock::moment()),
        }
    }

    fn with_own<T>(&self, account: &AccountName, ask: impl FnOnce(&mut Own, Moment, &Limits) -> T) -> T {
        let scope = self.store.scope(account);
        let limits = share(scope.limits, self.store.options().max_workers);
        let mut state = self.state();
        let now = self.now(&state);
        ask(state.own.entry(scope.name).or_default(), now, &limits)
    }

    /// Asks the process's own bucket.
    fn own_permit(&self, account: &AccountName, class: QuotaClass, refusals: u32, chance: f64) -> Admission {
        let silences = self.state().silences;
        self.with_own(account, |own, now, limits| {
            if own.silence != silences {
                own.silence = silences;
                // A moment ago the memory may have given this process a permit.
                own.bucket.admit(now, QuotaClass::Write, 0, limits, 0.0);
            }
            own.bucket.admit(now, class, refusals, limits, chance)
        })
    }

    /// Permit or refusal, and who gave it.
    async fn decide(
        &self,
        account: &AccountName,
        class: QuotaClass,
        refusals: u32,
        chance: f64,
    ) -> (Admission, Decider) {
        let own = || (self.own_permit(account, class, refusals, chance), Decider::Own);
        let Some(memory) = self.memory() else { return own() };
        let Some(told) = self.told(account, memory.ask_permit(account, class, refusals, chance).await) else {
            return own();
        };
        let Some((pause, true)) = self.own_pause(account, &told) else { return (told.answer, Decider::Shared) };
        // The memory has forgotten it, or never heard of it.
        self.told(account, memory.tell_throttled(account, pause.since(told.now)).await);
        let jitter = scaled(self.store.scope(account).limits.wait_min, chance);
        (Admission::Refused { until: pause.after(jitter), by_gate: true }, Decider::Shared)
    }

    /// A pause that this process knows of stands, whatever else the memory says: until when, and is it news to the memory?
    fn own_pause<T>(&self, account: &AccountName, told: &Told<T>) -> Option<(Moment, bool)> {
        self.with_own(account, |own, _, _| (own.pause > told.now).then_some((own.pause, own.pause > told.pause)))
    }
}

impl Quota for Rates {
    async fn permit(
        &self,
        account: &AccountName,
        class: QuotaClass,
        refusals: u32,
        chance: f64,
    ) -> Result<Admission, Unavailable> {
        let (admission, by) = self.decide(account, class, refusals, chance).await;
        self.store.options().metrics.permit(class, &admission, by);
        Ok(admission)
    }

    async fn throttled(&self, account: &AccountName, pause: Duration) -> Result<Moment, Unavailable> {
        self.store.options().metrics.gate_closed(GateCause::Throttled);
        if let Some(memory) = self.memory()
            && let Some(told) = self.told(account, memory.tell_throttled(account, pause).await)
        {
            return Ok(self.own_pause(account, &told).map_or(told.answer, |(own, _)| own.max(told.answer)));
        }
        Ok(self.with_own(account, |own, now, limits| {
            own.pause_until(now, now.after(pause), limits);
            own.bucket.paused_until()
        }))
    }

    async fn paused_until(&self, account: &AccountName) -> Result<Moment, Unavailable> {
        if let Some(memory) = self.memory()
            && let Some(told) = self.told(account, memory.ask_pause(account).await)
        {
            return Ok(self.own_pause(account, &told).map_or(told.answer, |(own, _)| own.max(told.answer)));
        }
        Ok(self.with_own(account, |own, _, _| own.bucket.paused_until()))
    }

    async fn failed(&self, account: &AccountName) -> Result<Option<Moment>, Unavailable> {
        let own = self.with_own(account, |own, now, limits| own.bucket.failed(now, limits));
        let told = match self.memory() {
            Some(memory) => self.told(account, memory.tell_failed(account).await),
            None => None,
        };
        let closed = told.map_or(own, |told| told.answer);
        if closed.is_some() {
            self.store.options().metrics.gate_closed(GateCause::Failures);
        }
        Ok(closed)
    }

    async fn succeeded(&self, account: &AccountName) -> Result<(), Unavailable> {
        self.with_own(account, |own, _, _| own.bucket.succeeded());
        if let Some(memory) = self.memory() {
            self.told(account, memory.tell_succeeded(account).await);
        }
        Ok(())
    }

    /// What the memory says, or said last: without it the account's polls come a little too often or too seldom.
    async fn polls_in_flight(&self, account: &AccountName) -> Result<u64, Unavailable> {
        if let Some(memory) = self.memory()
            && let Some(count) = self.heard(memory.polls_in_flight(account).await, |_| None)
        {
            self.state().polls.insert(account.clone(), count);
            return Ok(count);
        }
        Ok(self.state().polls.get(account).copied().unwrap_or(0))
    }

    fn polls_per_minute(&self, account: &AccountName) -> f64 {
        self.store.polls_per_minute(account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_all_processes_together_are_the_rate() {
        let limits = share(Limits { calls_per_minute: 20.0, ..Limits::default() }, 16);
        assert!((limits.calls_per_minute * 16.0 - 20.0).abs() < 1e-9);
        assert!((limits.floor_per_minute * 16.0 - Limits::default().floor_per_minute).abs() < 1e-9);
        assert_eq!(share(Limits::default(), 0), Limits::default());
    }
}
