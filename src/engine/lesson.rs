//! What every answer of the service teaches the account's quota, whoever called: a job's step or a person's read.

use std::time::Duration;

use super::ports::{Quota, Unavailable};
use crate::domain::{
    failure::{Cause, Failure, Kind},
    ids::AccountName,
    service::Answer,
    time::Moment,
};

/// What the quota made of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lesson {
    /// The service asked for a pause: nobody calls before this.
    pub paused_until: Option<Moment>,
    /// The service fails: the gate is closed until then.
    pub closed_until: Option<Moment>,
}

/// Tells the quota of an answer. A pause without a length lasts `default_pause`.
///
/// # Errors
/// [`Unavailable`]: the quota was not told; the caller heeds what it knows itself.
pub async fn teach<Q: Quota>(
    quota: &Q,
    account: &AccountName,
    answer: &Result<Answer, Failure>,
    default_pause: Duration,
) -> Result<Lesson, Unavailable> {
    match answer {
        Ok(_) | Err(Failure::Permanent(_) | Failure::Unauthorized(_)) => {
            quota.succeeded(account).await?;
            Ok(Lesson::default())
        }
        Err(Failure::Throttled(pause)) => {
            let until = quota.throttled(account, pause.retry_after.unwrap_or(default_pause)).await?;
            Ok(Lesson { paused_until: Some(until), closed_until: None })
        }
        Err(Failure::Transient(cause) | Failure::Indeterminate(cause)) if is_outage(cause) => {
            Ok(Lesson { paused_until: None, closed_until: quota.failed(account).await? })
        }
        Err(Failure::Transient(_) | Failure::Indeterminate(_)) => Ok(Lesson::default()),
    }
}

fn is_outage(cause: &Cause) -> bool {
    match cause.kind {
        Kind::ServerError | Kind::Timeout | Kind::Disconnected | Kind::NotSent => true,
        Kind::Throttled
        | Kind::Unauthorized
        | Kind::Forbidden
        | Kind::NotFound
        | Kind::RetryLater
        | Kind::AlreadyDone
        | Kind::Rejected
        | Kind::Changed
        | Kind::BadAnswer
        | Kind::SasExpired
        | Kind::Transfer
        | Kind::Source
        | Kind::Sink
        | Kind::Preflight
        | Kind::Verification
        | Kind::LocalIo
        | Kind::Internal => false,
    }
}
