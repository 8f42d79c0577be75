//! Reads for a person, outside any job, within the account's rate.

use std::time::Duration;

use super::App;
use crate::{
    clock,
    domain::{
        failure::{Cause, Failure, Kind},
        ids::{AccountName, CorrelationId, RequestId},
        quota::Admission,
        service::{Answer, Page, Product, Request, Response, Submission},
        step::QuotaClass,
    },
    embedded,
    engine::ports::{CallIds, Quota as _, Service as _, SignIn, Token},
};

/// The longest wait for a permit before the caller is told to come again.
const PATIENCE: Duration = Duration::from_secs(90);

/// Why a read gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// There is no token.
    #[error(transparent)]
    SignIn(#[from] SignIn),
    /// The call failed.
    #[error("{0}")]
    Call(Failure),
    /// The home's file.
    #[error(transparent)]
    Home(#[from] embedded::Error),
}

impl From<Failure> for DeskError {
    fn from(failure: Failure) -> Self {
        Self::Call(failure)
    }
}

/// One person's reads: they share a correlation id.
#[derive(Debug)]
pub struct Desk<'a> {
    app: &'a App,
    quota: embedded::Worker,
    account: AccountName,
    correlation: CorrelationId,
    token: Option<Token>,
}

impl<'a> Desk<'a> {
    /// A desk for this account. It takes no jobs.
    ///
    /// # Errors
    /// [`DeskError::Home`].
    pub fn open(app: &'a App, account: AccountName) -> Result<Self, DeskError> {
        let quota = app.home.worker()?;
        quota.restrict_to(&std::collections::BTreeSet::new());
        Ok(Self { app, quota, account, correlation: CorrelationId(clock::uuid_v4()), token: None })
    }

    /// What names these reads to Microsoft's support.
    #[must_use]
    pub const fn correlation(&self) -> CorrelationId {
        self.correlation
    }

    /// One read: permit, token, call; a refused token is renewed once.
    ///
    /// # Errors
    /// [`DeskError`].
    pub async fn read(&mut self, request: &Request) -> Result<Answer, DeskError> {
        let ids = CallIds { correlation: self.correlation, request: RequestId(clock::uuid_v4()) };
        let mut is_renewed = false;
        loop {
            self.permit().await?;
            let token = match self.token.take() {
                Some(token) => token,
                None => self.app.service.sign_in(&self.account).await?,
            };
            match self.app.service.ask(request, &token, ids).await {
                Err(Failure::Unauthorized(_)) if !is_renewed => {
                    is_renewed = true;
                    self.token = Some(self.app.service.renew(&self.account, &token).await?);
                }
                answer => {
                    self.token = Some(token);
                    return Ok(answer?);
                }
            }
        }
    }

    async fn permit(&self) -> Result<(), DeskError> {
        let begun = clock::monotonic();
        let down = |why: String| Failure::Transient(Cause::new(Kind::LocalIo, why));
        for refusals in 0_u32.. {
            let asked = self.quota.permit(&self.account, QuotaClass::Write, refusals, clock::chance()).await;
            let now = clock::moment();
            let until = match asked.map_err(|error| down(error.to_string()))? {
                Admission::Granted { at } => {
                    tokio::time::sleep(at.since(now)).await;
                    return Ok(());
                }
                Admission::Refused { until, .. } => until,
            };
            let wait = until.since(now);
            if begun.elapsed().saturating_add(wait) > PATIENCE {
                let message = format!("the account's rate leaves no call for {} s", wait.as_secs());
                let cause = Cause::new(Kind::Throttled, message);
                let pause = crate::domain::failure::Pause { retry_after: Some(wait), cause };
                return Err(Failure::Throttled(pause).into());
            }
            tokio::time::sleep(wait).await;
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
            let Response::Products(Page { items, next: link }) = self.read(&request).await?.response else {
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
            let Response::Submissions(Page { items, next: link }) = self.read(&request).await?.response else {
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

/// An answer to another question: our own mistake.
#[must_use]
pub fn unexpected(operation: &str) -> DeskError {
    Failure::Permanent(Cause::new(Kind::Internal, format!("{operation} was answered with something else"))).into()
}
