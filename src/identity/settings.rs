//! The waits of sign-in. Source of every default: contract/identity.md, sections 6, 8 and 9.

use std::time::Duration;

/// The waits of sign-in, by value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// A token is renewed this much before its end. One that lives less than twice as long is renewed at its half.
    pub renew_early: Duration,
    /// Up to how much earlier still, drawn anew for each token.
    pub renew_jitter: Duration,
    /// A token is not handed out in its last minute (of a short life: its last tenth): the call needs time, too.
    pub unused_before_end: Duration,
    /// The holder of the store's lease has this long; taken again before each attempt.
    pub lease: Duration,
    /// A permanent refusal is remembered this long for the same credential.
    pub refused_for: Duration,
    /// The pause after a throttle that names none.
    pub default_pause: Duration,
    /// The longest pause that is believed.
    pub pause_cap: Duration,
    /// Attempts of one token request, at least 1.
    pub max_attempts: u32,
    /// The first wait between them; doubled each time, with full jitter.
    pub backoff_base: Duration,
    /// The longest wait between them.
    pub backoff_cap: Duration,
    /// How far back an assertion begins: Entra judges it by its own clock.
    pub assertion_backdate: Duration,
    /// How far ahead an assertion ends.
    pub assertion_life: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            renew_early: Duration::from_mins(5),
            renew_jitter: Duration::from_mins(1),
            unused_before_end: Duration::from_mins(1),
            lease: Duration::from_secs(15),
            refused_for: Duration::from_mins(1),
            default_pause: Duration::from_mins(1),
            pause_cap: Duration::from_hours(1),
            max_attempts: 4,
            backoff_base: Duration::from_secs(1),
            backoff_cap: Duration::from_secs(30),
            assertion_backdate: Duration::from_mins(1),
            assertion_life: Duration::from_mins(9),
        }
    }
}

impl Settings {
    /// The longest wait before attempt number `spent + 1`.
    pub(super) fn backoff(&self, spent: u32) -> Duration {
        let factor = 2_u32.saturating_pow(spent.saturating_sub(1).min(31));
        self.backoff_base.saturating_mul(factor).min(self.backoff_cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_to_its_cap() {
        let settings = Settings::default();
        assert_eq!([1, 2, 3, 9, 99].map(|spent| settings.backoff(spent).as_secs()), [1, 2, 4, 30, 30]);
    }
}
