//! How long to wait after a failure, and when to give up.

use std::time::Duration;

use super::failure::Failure;

/// The arithmetic of retries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// The first backoff; each further one is twice as long.
    pub base: Duration,
    /// The longest backoff.
    pub cap: Duration,
    /// The attempt that is the last.
    pub max_attempts: u32,
    /// The pause after a throttle that names none.
    pub throttle_pause: Duration,
    /// The share of a throttle's pause that jitter may add to it, 0 to 1.
    pub throttle_jitter: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(2),
            cap: Duration::from_secs(3600),
            max_attempts: 10,
            throttle_pause: Duration::from_secs(60),
            throttle_jitter: 0.25,
        }
    }
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The same call again, not before; an attempt is spent.
    RetryIn(Duration),
    /// The same call again, not before; no attempt is spent.
    PauseFor(Duration),
    /// Look what became of it, not before.
    LookIn(Duration),
    /// Renew the token, then the same call.
    Renew,
    /// Nothing more to try.
    GiveUp,
}

/// What to do after the failure that makes `spent` (1 is the first) of this step; `chance` is drawn from 0 to 1.
///
/// The wait is never shorter than the service's own `Retry-After`: throttle jitter is added, backoff jitter is full.
#[must_use]
pub fn decide(policy: &Policy, spent: u32, failure: &Failure, chance: f64) -> Decision {
    let chance = chance.clamp(0.0, 1.0);
    match failure {
        Failure::Permanent(_) => Decision::GiveUp,
        Failure::Unauthorized(_) => Decision::Renew,
        Failure::Throttled(pause) => {
            let told = pause.retry_after.unwrap_or(policy.throttle_pause);
            Decision::PauseFor(told.saturating_add(scaled(told, policy.throttle_jitter * chance)))
        }
        Failure::Indeterminate(cause) => Decision::LookIn(cause.retry_after.unwrap_or(Duration::ZERO)),
        Failure::Transient(_) if spent >= policy.max_attempts => Decision::GiveUp,
        Failure::Transient(cause) => {
            Decision::RetryIn(backoff(policy, spent, chance).max(cause.retry_after.unwrap_or(Duration::ZERO)))
        }
    }
}

/// Full jitter: anything from zero to `base * 2^(spent - 1)`, capped.
fn backoff(policy: &Policy, spent: u32, chance: f64) -> Duration {
    let factor = 2_u32.saturating_pow(spent.saturating_sub(1).min(31));
    scaled(policy.base.saturating_mul(factor).min(policy.cap), chance)
}

/// A part of a span; zero for nonsense.
#[must_use]
pub fn scaled(span: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(span.as_secs_f64() * factor.max(0.0)).unwrap_or(span)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::failure::{Cause, Kind, Pause};

    fn cause() -> Cause {
        Cause::new(Kind::ServerError, "createProduct answered 503")
    }

    proptest! {
        #[test]
        fn a_throttle_is_never_answered_early_and_spends_no_attempt(
            secs in 0_u64..86_400, spent in 1_u32..100, chance in 0.0_f64..1.0,
        ) {
            let wait = Duration::from_secs(secs);
            let failure = Failure::Throttled(Pause { retry_after: Some(wait), cause: cause() });
            let decision = decide(&Policy::default(), spent, &failure, chance);
            prop_assert!(matches!(decision, Decision::PauseFor(d) if d >= wait && d <= wait * 5 / 4), "{decision:?}");
        }

        #[test]
        fn a_retry_after_on_a_5xx_is_never_undercut(secs in 0_u64..86_400, spent in 1_u32..9, chance in 0.0_f64..1.0) {
            let wait = Duration::from_secs(secs);
            let failure = Failure::Transient(Cause { retry_after: Some(wait), ..cause() });
            let decision = decide(&Policy::default(), spent, &failure, chance);
            prop_assert!(matches!(decision, Decision::RetryIn(d) if d >= wait), "{decision:?}");
        }

        #[test]
        fn backoff_grows_to_its_cap_and_stops_after_the_last_attempt(spent in 1_u32..40) {
            let decision = decide(&Policy::default(), spent, &Failure::Transient(cause()), 1.0);
            let longest = Duration::from_secs((2_u64 << (spent - 1).min(20)).min(3600));
            let expected = if spent >= 10 { Decision::GiveUp } else { Decision::RetryIn(longest) };
            prop_assert_eq!(decision, expected);
        }
    }

    #[test]
    fn an_unclear_answer_is_looked_up_and_never_given_up() {
        let failure = Failure::Indeterminate(cause());
        assert_eq!(decide(&Policy::default(), 1_000, &failure, 0.5), Decision::LookIn(Duration::ZERO));
    }

    #[test]
    fn a_throttle_without_a_time_pauses_for_a_minute_at_least() {
        let failure = Failure::Throttled(Pause { retry_after: None, cause: cause() });
        let Decision::PauseFor(wait) = decide(&Policy::default(), 1, &failure, 0.0) else { panic!() };
        assert_eq!(wait, Duration::from_secs(60));
    }
}
