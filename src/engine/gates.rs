//! The pauses that this process was told itself: its own copy, beside the quota that all processes share.
//!
//! A pause is in force here from the moment its 429 was read, before the quota has heard of it, and also when the quota
//! cannot be told or forgets. Kept by the clock that counts suspended time; bounded by the number of accounts.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::domain::ids::AccountName;

/// Until when no call leaves, by account.
#[derive(Debug, Default)]
pub(super) struct Gates(Mutex<BTreeMap<AccountName, Duration>>);

impl Gates {
    /// The service asked for a pause that ends at `until`; a longer one stays.
    pub(super) fn close(&self, account: &AccountName, until: Duration) {
        let mut pauses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = pauses.entry(account.clone()).or_default();
        *pause = until.max(*pause);
    }

    /// The rest of the pause in force; none when there is none.
    pub(super) fn rest(&self, account: &AccountName, now: Duration) -> Option<Duration> {
        let mut pauses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = pauses.get(account)?.checked_sub(now).filter(|rest| !rest.is_zero());
        if rest.is_none() {
            pauses.remove(account);
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_holds_for_its_account_alone_until_its_end_and_a_shorter_one_does_not_end_it() {
        let (gates, seconds) = (Gates::default(), Duration::from_secs);
        let [contoso, fabrikam] = ["contoso", "fabrikam"].map(|name| AccountName::parse(name).unwrap());
        gates.close(&contoso, seconds(60));
        gates.close(&contoso, seconds(20));
        assert_eq!(gates.rest(&contoso, seconds(10)), Some(seconds(50)));
        assert_eq!(gates.rest(&fabrikam, seconds(10)), None);
        assert_eq!(gates.rest(&contoso, seconds(60)), None);
        gates.close(&contoso, seconds(70));
        assert_eq!(gates.rest(&contoso, seconds(61)), Some(seconds(9)));
    }
}
