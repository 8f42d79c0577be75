//! What the engine is told at start, by value. Every wait has the contract's value as default.

use std::{collections::BTreeMap, time::Duration};

use super::admission::Admission;
use crate::domain::{claim, ids::AccountName, plan, retry, time::Moment};

/// The engine's settings.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Leases, the pause of a lost record, poison.
    pub claim: claim::Policy,
    /// Looks and polls.
    pub waits: plan::Waits,
    /// Backoff and attempts.
    pub retry: retry::Policy,
    /// Parks of a ticket that waits for somebody else.
    pub parks: Parks,
    /// Which names at the service carry our marker.
    pub markers: Markers,
    /// The same, for accounts that say so themselves.
    pub account_markers: BTreeMap<AccountName, Markers>,
    /// How far our clock and the service's may differ when an instant is to prove something.
    pub clock_tolerance: Tolerance,
    /// What is asked of a new job.
    pub admission: Admission,
    /// A handler starts no further call, and a transfer stops at a block border, after so long.
    pub handler: HandlerTime,
}

impl Settings {
    /// Which of this account's names carry our marker.
    #[must_use]
    pub fn markers_of(&self, account: &AccountName) -> Markers {
        self.account_markers.get(account).copied().unwrap_or(self.markers)
    }
}

/// Parks of a ticket that waits for somebody else.
#[derive(Debug, Clone, Copy)]
pub struct Parks {
    /// Another job has the turn for the name.
    pub name_turn: Duration,
    /// Another job's write to the product is under way.
    pub product_turn: Duration,
    /// Another worker is reading the listing.
    pub listing: Duration,
    /// The memory does not answer: at least.
    pub unavailable: Duration,
    /// The memory does not answer: at most.
    pub unavailable_most: Duration,
    /// Somebody alive holds the place: at least.
    pub busy_least: Duration,
    /// Somebody alive holds the place: at most.
    pub busy_most: Duration,
    /// A ticket of tomorrow.
    pub newer: Duration,
    /// An account that this worker does not know yet.
    pub unknown_account: Duration,
    /// How long an unknown account may stay unknown.
    pub unknown_account_for: Duration,
    /// A handler that ran out of time goes on in its next turn after so long.
    pub next_turn: Duration,
    /// A control ticket whose job is not claimed yet comes again after so long.
    pub control: Duration,
}

impl Default for Parks {
    fn default() -> Self {
        Self {
            name_turn: Duration::from_secs(32),
            product_turn: Duration::from_secs(2),
            listing: Duration::from_secs(32),
            unavailable: Duration::from_secs(32),
            unavailable_most: Duration::from_secs(256),
            busy_least: Duration::from_secs(1),
            busy_most: Duration::from_secs(60),
            newer: Duration::from_secs(64),
            unknown_account: Duration::from_secs(32),
            unknown_account_for: Duration::from_secs(600),
            next_turn: Duration::ZERO,
            control: Duration::from_secs(32),
        }
    }
}

impl Parks {
    /// The wait for a memory that does not answer: drawn anew, so that not all come back at once.
    #[must_use]
    pub fn down(&self, chance: f64) -> Duration {
        let more = self.unavailable_most.saturating_sub(self.unavailable);
        self.unavailable.saturating_add(retry::scaled(more, chance.min(1.0)))
    }

    /// When to come again for a place that somebody alive holds, who may hold it until then.
    #[must_use]
    pub fn busy(&self, until: Moment, now: Moment) -> Moment {
        until.min(now.after(self.busy_most)).max(now.after(self.busy_least))
    }
}

/// Which names at the service carry our marker.
#[derive(Debug, Clone, Copy)]
pub struct Markers {
    /// Product names: seen by people and partners.
    pub products: bool,
    /// Submission names: seen by the account alone.
    pub submissions: bool,
}

impl Default for Markers {
    fn default() -> Self {
        Self { products: false, submissions: true }
    }
}

/// A span by which two clocks may differ.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance(pub Duration);

impl Default for Tolerance {
    fn default() -> Self {
        Self(Duration::from_secs(300))
    }
}

/// How long a handler may keep a delivery before it starts nothing new.
#[derive(Debug, Clone, Copy)]
pub struct HandlerTime(pub Duration);

impl Default for HandlerTime {
    fn default() -> Self {
        Self(Duration::from_secs(300))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_a_memory_lie_between_their_least_and_their_most() {
        let parks = Parks::default();
        assert_eq!(parks.down(0.0), parks.unavailable);
        assert_eq!(parks.down(0.5), Duration::from_secs(144));
        assert_eq!(parks.down(1.0), parks.unavailable_most);
    }

    #[test]
    fn a_held_place_is_asked_for_after_its_lease_but_neither_at_once_nor_too_late() {
        let (parks, at) = (Parks::default(), |seconds: i64| Moment::from_millis(seconds * 1_000));
        assert_eq!(parks.busy(at(100), at(100)), at(101));
        assert_eq!(parks.busy(at(120), at(100)), at(120));
        assert_eq!(parks.busy(at(900), at(100)), at(160));
    }
}
