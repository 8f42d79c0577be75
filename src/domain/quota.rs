//! How fast an account may call: GCRA with classes, a gate, and a rate that learns from throttles.
//!
//! One [`Bucket`] per (host, tenant, client id) and API, shared by all workers; the memory's clock drives it. A permit is
//! given for now or for at most [`Limits::ahead`] later, to the process that asks; nothing is reserved further.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{retry::scaled, step::QuotaClass, time::Moment};

/// What is added to a refused ticket's wait at most, as a part of it.
const JITTER: f64 = 0.25;

/// For how long after a refused look should have asked again its slot is kept.
const LATE_LOOK: Duration = Duration::from_secs(5);

/// What an account is allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Calls a minute, all classes together.
    pub calls_per_minute: f64,
    /// The share of the rate that downloads may use.
    pub download_share: f64,
    /// The share of the rate that polls may use.
    pub poll_share: f64,
    /// How far ahead a permit may be given.
    pub ahead: Duration,
    /// The shortest wait of a refused ticket.
    pub wait_min: Duration,
    /// The longest wait of a refused ticket.
    pub wait_max: Duration,
    /// How long without a refusal until the count of waiting tickets is forgotten.
    pub waiting_memory: Duration,
    /// The learned rate never falls below so many calls a minute.
    pub floor_per_minute: f64,
    /// The factor of the learned rate after a throttle, below 1.
    pub slow_down: f64,
    /// What the learned rate gains in a minute without a throttle, as a share of itself.
    pub recovery_per_minute: f64,
    /// So many 5xx in a row close the gate.
    pub failures_to_close: u32,
    /// How long the gate is closed first; doubled each time.
    pub close_for_min: Duration,
    /// How long the gate is closed at most.
    pub close_for_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            calls_per_minute: 20.0,
            download_share: 0.8,
            poll_share: 0.5,
            ahead: Duration::from_secs(2),
            wait_min: Duration::from_secs(2),
            wait_max: Duration::from_secs(900),
            waiting_memory: Duration::from_secs(900),
            floor_per_minute: 1.0,
            slow_down: 0.5,
            recovery_per_minute: 0.05,
            failures_to_close: 5,
            close_for_min: Duration::from_secs(32),
            close_for_max: Duration::from_secs(512),
        }
    }
}

/// The state of one scope's quota.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// Theoretical arrival of the next call, in microseconds.
    common_us: i64,
    /// The same for each class with a share.
    class_us: [i64; 3],
    /// Tickets of each class that were refused and wait.
    waiting: [u32; 3],
    /// When a ticket of the class was last refused.
    refused_at: [Moment; 3],
    /// No call before: what the service told us.
    pause_until: Moment,
    /// The learned rate, calls a minute; none until the first throttle.
    learned: Option<f64>,
    /// When the learned rate was last set.
    learned_at: Moment,
    /// 5xx in a row.
    failures: u32,
    /// No call before: the service fails.
    closed_until: Moment,
    /// How long the gate was closed last, milliseconds.
    closed_for_ms: u64,
    /// Looks that were refused and wait: apart from the writes, whose backlog would make each look wait as long.
    #[serde(default)]
    looks_waiting: u32,
    /// When a look was last refused.
    #[serde(default)]
    look_refused_at: Moment,
    /// When the first of the refused looks asks again: a slot is kept free for it.
    #[serde(default)]
    look_at: Option<Moment>,
}

/// The answer to a request for a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Call at this instant, now or a little later.
    Granted {
        /// The instant.
        at: Moment,
    },
    /// Ask again at this instant.
    Refused {
        /// The instant.
        until: Moment,
        /// A gate is closed; otherwise the rate is used up.
        by_gate: bool,
    },
}

/// Where the class's own figures lie; looks have some of their own.
const fn index(class: QuotaClass) -> Option<usize> {
    match class {
        QuotaClass::Write => Some(0),
        QuotaClass::Look => None,
        QuotaClass::Download => Some(1),
        QuotaClass::Poll => Some(2),
    }
}

impl Bucket {
    /// Asks for one call of a class, for a ticket that was refused so many times in a row before.
    pub fn admit(&mut self, now: Moment, class: QuotaClass, refusals: u32, limits: &Limits, chance: f64) -> Admission {
        let gate = self.pause_until.max(self.closed_until);
        if now < gate {
            let until = gate.after(scaled(limits.wait_min, chance));
            return Admission::Refused { until, by_gate: true };
        }
        let now_us = micros(now);
        // An arrival time more than a minute ahead of the clock is left over from another clock.
        let sane = |arrival: i64| if arrival > now_us.saturating_add(60_000_000) { now_us } else { arrival };
        let (rate, slot) = (self.rate(now, limits), index(class));
        let own = slot.and_then(|slot| self.class_us.get(slot)).map_or(now_us, |at| sane(*at));
        let at_us = sane(self.common_us).max(own).max(now_us);
        let next_us = at_us.saturating_add(interval_us(rate));
        let ahead_us = i64::try_from(limits.ahead.as_micros()).unwrap_or(i64::MAX);
        let is_for_a_look = class != QuotaClass::Look
            && self
                .look_at
                .is_some_and(|look| now < look.after(LATE_LOOK) && next_us > micros(look).saturating_add(ahead_us));
        if is_for_a_look || at_us.saturating_sub(now_us) > ahead_us {
            let least = Duration::from_micros(u64::try_from(at_us - now_us - ahead_us).unwrap_or(0));
            return self.refuse(now, class, refusals, (rate, least), limits, chance);
        }
        self.common_us = next_us;
        match slot {
            Some(slot) => {
                if let Some(arrival) = self.class_us.get_mut(slot) {
                    *arrival = at_us.saturating_add(interval_us(rate * share(class, limits)));
                }
                if let Some(waiting) = self.waiting.get_mut(slot).filter(|_| refusals > 0) {
                    *waiting = waiting.saturating_sub(1);
                }
            }
            None => {
                self.look_at = None;
                self.looks_waiting = self.looks_waiting.saturating_sub(u32::from(refusals > 0));
            }
        }
        // Rounded up: a permit is never early.
        Admission::Granted { at: Moment::from_millis(at_us.saturating_add(999).div_euclid(1_000)) }
    }

    fn refuse(
        &mut self,
        now: Moment,
        class: QuotaClass,
        refusals: u32,
        (rate, least): (f64, Duration),
        limits: &Limits,
        chance: f64,
    ) -> Admission {
        let waiting = self.count_in(now, class, refusals, limits);
        let per_second = (rate * share(class, limits) / 60.0).max(f64::MIN_POSITIVE);
        let seconds = f64::from(waiting) / per_second / f64::from(refusals.saturating_add(1));
        let wait = Duration::try_from_secs_f64(seconds).unwrap_or(limits.wait_max);
        // With its jitter it is no longer than the longest wait, and those that wait so long come back apart as well.
        let most = scaled(limits.wait_max, 1.0 / (1.0 + JITTER));
        let mut wait = wait.min(most).max(limits.wait_min);
        if class == QuotaClass::Look {
            // When it comes back, what others were given before has passed, and nobody was given its own slot since.
            wait = wait.max(least).min(limits.wait_max);
        }
        let until = now.after(wait.saturating_add(scaled(wait, JITTER * chance)).min(limits.wait_max));
        if class == QuotaClass::Look {
            let first = self.look_at.filter(|first| now < first.after(LATE_LOOK));
            self.look_at = Some(first.map_or(until, |first| first.min(until)));
        }
        Admission::Refused { until, by_gate: false }
    }

    /// Counts a refused ticket among those of its class that wait.
    fn count_in(&mut self, now: Moment, class: QuotaClass, refusals: u32, limits: &Limits) -> u32 {
        let (count, at) = match index(class) {
            None => (&mut self.looks_waiting, &mut self.look_refused_at),
            Some(slot) => match (self.waiting.get_mut(slot), self.refused_at.get_mut(slot)) {
                (Some(count), Some(at)) => (count, at),
                _ => return 1,
            },
        };
        let known = if now.since(*at) < limits.waiting_memory { *count } else { 0 };
        *count = if refusals == 0 { known.saturating_add(1) } else { known.max(1) };
        *at = now;
        *count
    }

    /// Calls a minute that are allowed now.
    #[must_use]
    pub fn rate(&self, now: Moment, limits: &Limits) -> f64 {
        let Some(learned) = self.learned else { return limits.calls_per_minute };
        let minutes = (now.since(self.learned_at).as_secs() / 60).min(10_000);
        let factor = (1.0 + limits.recovery_per_minute).powi(i32::try_from(minutes).unwrap_or(i32::MAX));
        (learned * factor).clamp(limits.floor_per_minute.min(limits.calls_per_minute), limits.calls_per_minute)
    }

    /// The service asked for a pause: nobody calls before its end, and the learned rate is lowered once for each pause.
    pub fn throttled(&mut self, now: Moment, until: Moment, limits: &Limits) {
        if now >= self.pause_until {
            self.learned = Some((self.rate(now, limits) * limits.slow_down).max(limits.floor_per_minute));
            self.learned_at = now;
        }
        self.pause_until = self.pause_until.max(until);
    }

    /// A call was answered with a 5xx, or not at all; says until when the gate is closed now, if it is.
    pub fn failed(&mut self, now: Moment, limits: &Limits) -> Option<Moment> {
        self.failures = self.failures.saturating_add(1);
        if self.failures < limits.failures_to_close {
            return None;
        }
        if now >= self.closed_until {
            let least = u64::try_from(limits.close_for_min.as_millis()).unwrap_or(u64::MAX);
            let most = u64::try_from(limits.close_for_max.as_millis()).unwrap_or(u64::MAX);
            self.closed_for_ms = self.closed_for_ms.saturating_mul(2).clamp(least, most);
            self.closed_until = now.after(Duration::from_millis(self.closed_for_ms));
        }
        Some(self.closed_until)
    }

    /// A call was answered: the gate is open.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.closed_for_ms = 0;
        self.closed_until = Moment::default();
    }

    /// Does the next answer change anything here? Spares a write for each healthy call.
    #[must_use]
    pub fn is_troubled(&self) -> bool {
        self.failures > 0
    }

    /// The pause that is in force, whoever asked for it.
    #[must_use]
    pub fn paused_until(&self) -> Moment {
        self.pause_until.max(self.closed_until)
    }
}

const fn micros(at: Moment) -> i64 {
    at.as_millis().saturating_mul(1_000)
}

fn share(class: QuotaClass, limits: &Limits) -> f64 {
    match class {
        QuotaClass::Write | QuotaClass::Look => 1.0,
        QuotaClass::Download => limits.download_share,
        QuotaClass::Poll => limits.poll_share,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "clamped to a day before the cast")]
fn interval_us(per_minute: f64) -> i64 {
    (60_000_000.0 / per_minute.max(f64::MIN_POSITIVE)).clamp(1.0, 86_400_000_000.0).ceil() as i64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: i64) -> Moment {
        Moment::from_millis(1_000_000 + millis)
    }

    fn limits(calls_per_minute: f64) -> Limits {
        Limits { calls_per_minute, ..Limits::default() }
    }

    proptest! {
        #[test]
        fn permits_in_any_ten_seconds_stay_within_the_rate(
            asks in proptest::collection::vec((0_i64..400, 0_usize..4), 1..400), rate in 20.0_f64..1_200.0,
        ) {
            let limits = limits(rate);
            let mut bucket = Bucket::default();
            let (mut now, mut granted) = (0, Vec::new());
            for (gap, class) in asks {
                now += gap;
                if let Admission::Granted { at } = bucket.admit(at(now), QuotaClass::ALL[class], 0, &limits, 0.0) {
                    prop_assert!(at.since(Moment::from_millis(1_000_000 + now)) <= limits.ahead + Duration::from_millis(1));
                    granted.push(at.as_millis());
                }
            }
            granted.sort_unstable();
            for (n, from) in granted.iter().enumerate() {
                let within = granted[n..].iter().take_while(|at| **at < from + 10_000).count();
                let within = f64::from(u32::try_from(within).unwrap());
                prop_assert!(within <= 10.0 * rate / 60.0 * 1.01 + 1.0, "{within} permits in 10 s at {rate}");
            }
        }

        #[test]
        fn a_pause_is_never_undercut(pause in 1_i64..600_000, ask in 0_i64..600_000, chance in 0.0_f64..1.0) {
            let mut bucket = Bucket::default();
            bucket.throttled(at(0), at(pause), &limits(600.0));
            match bucket.admit(at(ask), QuotaClass::Write, 0, &limits(600.0), chance) {
                Admission::Granted { at: granted } => prop_assert!(granted >= at(pause) && ask >= pause),
                Admission::Refused { until, .. } => prop_assert!(until >= at(pause)),
            }
        }
    }

    proptest! {
        #[test]
        fn a_look_finds_its_slot_behind_any_backlog(
            rate in 6.0_f64..1_200.0, gap in 1_i64..200, backlog in 1_u32..2_000, chance in 0.0_f64..1.0, begin in 0_i64..10_000,
        ) {
            let limits = limits(rate);
            let mut bucket = Bucket::default();
            for _ in 0..backlog {
                bucket.admit(at(0), QuotaClass::Write, 0, &limits, chance);
            }
            let (mut now, mut refusals, mut asks_at) = (0, 0, begin);
            let granted_at = loop {
                // Somebody of every other class asks all the time.
                for class in [QuotaClass::Write, QuotaClass::Download, QuotaClass::Poll] {
                    bucket.admit(at(now), class, 0, &limits, chance);
                }
                if now >= asks_at {
                    match bucket.admit(at(now), QuotaClass::Look, refusals, &limits, chance) {
                        Admission::Granted { at } => break at,
                        Admission::Refused { until, .. } => asks_at = until.as_millis() - 1_000_000,
                    }
                    refusals += 1;
                }
                now += gap;
            };
            let waited = granted_at.since(at(begin));
            let calls = Duration::from_secs_f64(3.0 * 60.0 / rate);
            prop_assert!(refusals <= 1 && waited <= calls + Duration::from_secs(6), "{waited:?}, refused {refusals} times");
        }
    }

    #[test]
    fn a_look_that_never_comes_back_holds_its_slot_for_a_moment_only() {
        let (limits, mut bucket) = (limits(20.0), Bucket::default());
        while matches!(bucket.admit(at(0), QuotaClass::Write, 0, &limits, 0.0), Admission::Granted { .. }) {}
        let Admission::Refused { until, .. } = bucket.admit(at(0), QuotaClass::Look, 0, &limits, 0.0) else { panic!() };
        let later = until.after(LATE_LOOK);
        assert!(matches!(bucket.admit(until, QuotaClass::Poll, 1, &limits, 0.0), Admission::Refused { .. }));
        assert!(matches!(bucket.admit(later, QuotaClass::Poll, 1, &limits, 0.0), Admission::Granted { .. }));
    }

    #[test]
    fn a_bucket_of_an_earlier_version_is_read() {
        let mut old = serde_json::to_value(Bucket::default()).unwrap();
        for new in ["looks_waiting", "look_refused_at", "look_at"] {
            old.as_object_mut().unwrap().remove(new).unwrap();
        }
        assert_eq!(serde_json::from_value::<Bucket>(old).unwrap(), Bucket::default());
    }

    #[test]
    fn polls_take_half_and_downloads_four_fifths_of_the_rate() {
        for (class, expected) in [(QuotaClass::Write, 600), (QuotaClass::Download, 480), (QuotaClass::Poll, 300)] {
            let mut bucket = Bucket::default();
            let granted = (0..60_000)
                .step_by(10)
                .filter(|now| {
                    let admission = bucket.admit(at(*now), class, 0, &limits(600.0), 0.0);
                    matches!(admission, Admission::Granted { at: granted } if granted < at(60_000))
                })
                .count();
            assert!(granted.abs_diff(expected) <= 2, "{class:?}: {granted}");
        }
    }

    #[test]
    fn a_throttle_halves_the_rate_once_and_it_comes_back_by_five_per_cent_a_minute() {
        let (limits, mut bucket) = (limits(100.0), Bucket::default());
        bucket.throttled(at(0), at(30_000), &limits);
        bucket.throttled(at(10), at(30_000), &limits);
        assert!((bucket.rate(at(30_000), &limits) - 50.0).abs() < 1e-9);
        assert!((bucket.rate(at(60_000), &limits) - 52.5).abs() < 1e-9);
        assert!((bucket.rate(at(3_600_000), &limits) - 100.0).abs() < 1e-9);
        for event in 1..20 {
            bucket.throttled(at(40_000 + event * 2), at(40_000 + event * 2 + 1), &limits);
        }
        assert!((bucket.rate(at(40_040), &limits) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn five_failures_in_a_row_close_the_gate_for_longer_each_time_until_one_call_succeeds() {
        let (limits, mut bucket) = (Limits::default(), Bucket::default());
        assert!((0..4).all(|_| bucket.failed(at(0), &limits).is_none()));
        assert_eq!(bucket.failed(at(0), &limits), Some(at(32_000)));
        assert_eq!(bucket.failed(at(32_000), &limits), Some(at(96_000)));
        assert!(matches!(
            bucket.admit(at(90_000), QuotaClass::Poll, 0, &limits, 0.0),
            Admission::Refused { until, by_gate: true } if until == at(96_000)
        ));
        bucket.succeeded();
        assert!(matches!(bucket.admit(at(90_000), QuotaClass::Poll, 0, &limits, 0.0), Admission::Granted { .. }));
        assert_eq!(bucket.failed(at(90_000), &limits), None);
    }

    #[test]
    fn a_refused_ticket_waits_no_longer_than_the_longest_wait_its_jitter_included() {
        let limits = Limits { wait_max: Duration::from_secs(16), ..limits(1.0) };
        let mut bucket = Bucket::default();
        for chance in [0.0, 0.5, 0.999] {
            for _ in 0..50 {
                if let Admission::Refused { until, .. } = bucket.admit(at(0), QuotaClass::Write, 0, &limits, chance) {
                    assert!(until.since(at(0)) <= limits.wait_max, "{:?}", until.since(at(0)));
                }
            }
        }
    }

    #[test]
    fn a_throttle_lowers_the_rate_by_the_factor_that_is_set() {
        let (limits, mut bucket) = (Limits { slow_down: 0.75, ..limits(20.0) }, Bucket::default());
        bucket.throttled(at(0), at(1_000), &limits);
        assert!((bucket.rate(at(0), &limits) - 15.0).abs() < 1e-9);
    }

    #[test]
    fn a_refused_ticket_waits_less_the_more_often_it_was_refused() {
        let (limits, mut bucket) = (limits(20.0), Bucket::default());
        let mut wait = |refusals| loop {
            if let Admission::Refused { until, .. } = bucket.admit(at(0), QuotaClass::Write, refusals, &limits, 0.0) {
                return until.since(at(0));
            }
        };
        let first: Vec<_> = (0..100).map(|_| wait(0)).collect();
        assert!(first.last() > first.first());
        assert!(wait(9) < wait(0) / 5);
    }
}
