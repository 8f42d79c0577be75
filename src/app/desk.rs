//! Calls for a person, outside any job, within the account's rate: reads, but for the one write that changes nothing.

use std::{sync::Arc, time::Duration};

use super::{App, Fleet, Parts};
use crate::{
    clock,
    domain::{
        failure::{Cause, Failure, Kind, Pause},
        ids::{AccountName, CorrelationId, RequestId},
        quota::Admission,
        service::{Answer, Page, Product, Request, Response, Submission},
        step::QuotaClass,
        time::Moment,
    },
    embedded,
    engine::{
        lesson::{self, Lesson},
        ports::{CallIds, Quota, Service as _, SignIn, Token, Unavailable},
    },
    fleet,
};

/// The longest wait for a permit before the caller is told to come again.
const PATIENCE: Duration = Duration::from_secs(20);

/// How soon a permit is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// There is no token.
    #[error(transparent)]
    SignIn(#[from] SignIn),
    /// The call failed.
    #[error("{0}")]
    Call(Failure),
    /// The account's own rate is used up by its jobs; the service asked for no pause.
    #[error("the account's rate is used up by jobs; a call of {account} may go out at {} at the earliest", until.timestamp())]
    RateUsedUp {
        /// The account.
        account: AccountName,
        /// When the next permit may be had.
        until: Moment,
    },
    /// The home's file.
    #[error(transparent)]
    Home(#[from] embedded::Error),
}

impl From<Failure> for DeskError {
    fn from(failure: Failure) -> Self {
        Self::Call(failure)
    }
}

impl From<Unavailable> for DeskError {
    fn from(unavailable: Unavailable) -> Self {
        Failure::Transient(Cause::new(Kind::LocalIo, unavailable.to_string())).into()
    }
}

/// Who keeps the account's rate.
#[derive(Debug)]
enum Rate {
    /// The embedded home, asked by a worker that takes no jobs.
    File(Box<embedded::Worker>),
    /// The fleet's memory, and this process's share of it while that is silent.
    Fleet(Arc<fleet::Fleet>),
}

/// One person's calls: they share a correlation id.
#[derive(Debug)]
pub struct Desk<'a> {
    parts: &'a Parts,
    rate: Rate,
    account: AccountName,
    correlation: CorrelationId,
    token: Option<Token>,
}

impl<'a> Desk<'a> {
    /// A desk for this account, at the rate that the file keeps. It takes no jobs.
    ///
    /// # Errors
    /// [`DeskError::Home`].
    pub fn alone(app: &'a App, account: AccountName) -> Result<Self, DeskError> {
        let worker = app.home.worker_of(&std::collections::BTreeSet::new())?;
        Ok(Self::new(app, Rate::File(Box::new(worker)), account))
    }

    /// A desk for this account, at the rate that the fleet shares.
    #[must_use]
    pub fn in_the_fleet(fleet: &'a Fleet, account: AccountName) -> Self {
        Self::new(fleet, Rate::Fleet(fleet.home()), account)
    }

    fn new(parts: &'a Parts, rate: Rate, account: AccountName) -> Self {
        Self { parts, rate, account, correlation: CorrelationId(clock::uuid_v4()), token: None }
    }

    /// What names these calls to Microsoft's support.
    #[must_use]
    pub const fn correlation(&self) -> CorrelationId {
        self.correlation
    }

    /// One call: token, permit, request; a refused token is renewed once, and the quota learns from every answer.
    ///
    /// # Errors
    /// [`DeskError`]; a throttled account is a [`Failure::Throttled`] that says until when, one whose jobs use its rate up
    /// [`DeskError::RateUsedUp`].
    pub async fn call(&mut self, request: &Request) -> Result<Answer, DeskError> {
        let ids = CallIds { correlation: self.correlation, request: RequestId(clock::uuid_v4()) };
        let mut is_renewed = false;
        loop {
            // The token first: it may take a while, and a permit is for now.
            let token = match self.token.take() {
                Some(token) => token,
                None => self.parts.service.sign_in(&self.account).await?,
            };
            self.permit().await?;
            let answer = self.parts.service.ask(request, &token, ids).await;
            let lesson = self.teach(&answer).await;
            match answer {
                Err(Failure::Unauthorized(_)) if !is_renewed => {
                    is_renewed = true;
                    self.token = Some(self.parts.service.renew(&self.account, &token).await?);
                }
                Err(Failure::Throttled(Pause { retry_after, mut cause })) => {
                    let pause = retry_after.unwrap_or(self.default_pause());
                    let until = lesson.paused_until.unwrap_or_else(|| clock::moment().after(pause));
                    cause.message = format!("{}; {}", cause.message, throttled_until(&self.account, until));
                    return Err(Failure::Throttled(Pause { retry_after: Some(pause), cause }).into());
                }
                answer => {
                    self.token = Some(token);
                    return Ok(answer?);
                }
            }
        }
    }

    fn default_pause(&self) -> Duration {
        self.parts.loaded.settings.quota.default_pause
    }

    async fn teach(&self, answer: &Result<Answer, Failure>) -> Lesson {
        let (account, pause) = (&self.account, self.default_pause());
        let taught = match &self.rate {
            Rate::File(worker) => lesson::teach(&**worker, account, answer, pause).await,
            Rate::Fleet(home) => lesson::teach(&**home, account, answer, pause).await,
        };
        taught.unwrap_or_else(|down| {
            tracing::warn!(%down, "the quota could not be told of an answer");
            Lesson::default()
        })
    }

    /// A permit of the class that waits behind writes and looks. Says on stderr when it takes a while.
    async fn permit(&self) -> Result<(), DeskError> {
        match &self.rate {
            Rate::File(worker) => self.permit_of(&**worker).await,
            Rate::Fleet(home) => self.permit_of(&**home).await,
        }
    }

    async fn permit_of<Q: Quota>(&self, quota: &Q) -> Result<(), DeskError> {
        let begun = clock::monotonic();
        for refusals in 0_u32.. {
            let admission = quota.permit(&self.account, QuotaClass::Poll, refusals, clock::chance()).await;
            let (until, is_pause) = match admission? {
                Admission::Granted { at } => {
                    tokio::time::sleep(at.since(clock::moment())).await;
                    // Another process may have been told to pause meanwhile.
                    match quota.paused_until(&self.account).await? {
                        until if until > clock::moment() => (until, true),
                        _ => return Ok(()),
                    }
                }
                Admission::Refused { until, by_gate } => (until, by_gate),
            };
            let wait = until.since(clock::moment());
            let left = PATIENCE.saturating_sub(begun.elapsed());
            if left.is_zero() || (is_pause && wait > left) {
                return Err(no_permit(&self.account, until, wait, is_pause));
            }
            if refusals == 0 {
                let within = PATIENCE.as_secs();
                if is_pause {
                    tracing::warn!(account = %self.account, within, "the service asked for a pause: waiting for a permit");
                } else {
                    tracing::warn!(account = %self.account, within, "the account's rate is used up: waiting for a permit");
                }
            }
            // A person does not stand in line behind every poll that waits: the next ask is soon, not in its turn.
            tokio::time::sleep(wait.min(ASK_AGAIN).min(left)).await;
        }
        Ok(())
    }

    /// Every product of the account.
    ///
    /// # Errors
    /// [`DeskError`].
    pub async fn products(&mut self) -> Result<Vec<Product>, DeskError> {
        let mut all = Vec::new();
        let mut next = None;
        loop {
            let request = Request::ListProducts { next };
            let Response::Products(Page { items, next: link }) = self.call(&request).await?.response else {
                return Err(unexpected(request.operation()));
            };
            all.extend(items);
            match link {
                Some(link) => next = Some(link),
                None => return Ok(all),
            }
        }
    }

    /// Every submission of a product.
    ///
    /// # Errors
    /// [`DeskError`].
    pub async fn submissions(&mut self, product: crate::domain::ids::ProductId) -> Result<Vec<Submission>, DeskError> {
        let mut all = Vec::new();
        let mut next = None;
        loop {
            let request = Request::ListSubmissions { product, next };
            let Response::Submissions(Page { items, next: link }) = self.call(&request).await?.response else {
                return Err(unexpected(request.operation()));
            };
            all.extend(items);
            match link {
                Some(link) => next = Some(link),
                None => return Ok(all),
            }
        }
    }
}

fn throttled_until(account: &AccountName, until: Moment) -> String {
    format!("account {account} is throttled until {}", until.timestamp())
}

/// Why there was no permit in time.
fn no_permit(account: &AccountName, until: Moment, wait: Duration, is_pause: bool) -> DeskError {
    if !is_pause {
        return DeskError::RateUsedUp { account: account.clone(), until };
    }
    let cause = Cause::new(Kind::Throttled, throttled_until(account, until));
    Failure::Throttled(Pause { retry_after: Some(wait), cause }).into()
}

/// An answer to another question: our own mistake.
#[must_use]
pub fn unexpected(operation: &str) -> DeskError {
    Failure::Permanent(Cause::new(Kind::Internal, format!("{operation} was answered with something else"))).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_that_jobs_use_up_is_no_throttle() {
        let account = AccountName::parse("contoso").unwrap();
        let told = |is_pause| no_permit(&account, Moment::default(), Duration::from_secs(40), is_pause);
        let (own, service) = (told(false), told(true));
        let words = own.to_string();
        assert!(matches!(own, DeskError::RateUsedUp { .. }) && words.contains("used up by jobs"), "{words}");
        assert!(!words.contains("throttled"), "{words}");
        assert!(matches!(&service, DeskError::Call(Failure::Throttled(_))));
        assert!(service.to_string().contains("account contoso is throttled until 1970"), "{service}");
    }
}
