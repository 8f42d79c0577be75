//! The hardware service and its sign-in.

use std::{future::Future, time::Duration};

use secrecy::SecretString;

use crate::domain::{
    failure::Failure,
    ids::{AccountName, CorrelationId, RequestId},
    service::{Answer, Request},
};

/// A permit for one call, minted by the engine's quota gate alone.
#[derive(Debug)]
#[must_use]
pub struct Permit(());

impl Permit {
    pub(in crate::engine) const fn granted() -> Self {
        Self(())
    }
}

/// A bearer token.
#[derive(Debug, Clone)]
pub struct Token {
    /// The token itself.
    pub secret: SecretString,
    /// Names it without giving it away: a 401 forces one renewal per version.
    pub version: String,
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignIn {
    /// Sign-in is refused: a person must change something. The account's jobs wait.
    #[error("sign-in is refused: {message}")]
    Refused {
        /// What the endpoint said, in words.
        message: String,
        /// What to do next.
        next: String,
        /// How long ago it was refused: the adapter may remember a refusal, and answer without asking again.
        ago: Duration,
        /// Ask again after this.
        again: Duration,
    },
    /// The token endpoint asked for a pause.
    #[error("no token for the moment: {message}")]
    Throttled {
        /// What happened.
        message: String,
        /// Ask again after this.
        again: Duration,
    },
    /// The token endpoint fails for the moment.
    #[error("no token for the moment: {message}")]
    Later {
        /// What happened.
        message: String,
        /// Ask again after this.
        again: Duration,
    },
}

/// Who asks, for Microsoft's support.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallIds {
    /// One per job.
    pub correlation: CorrelationId,
    /// One per (job, step, try).
    pub request: RequestId,
}

/// The hardware service and its sign-in.
pub trait Service: Send + Sync + 'static {
    /// Is this account configured?
    fn knows(&self, account: &AccountName) -> bool;

    /// A token for the account.
    ///
    /// # Errors
    /// [`SignIn`].
    fn sign_in(&self, account: &AccountName) -> impl Future<Output = Result<Token, SignIn>> + Send;

    /// A token other than the refused one.
    ///
    /// # Errors
    /// [`SignIn::Refused`] when the refused one was new already.
    fn renew(&self, account: &AccountName, refused: &Token) -> impl Future<Output = Result<Token, SignIn>> + Send;

    /// One call. Ends by its own response time-out.
    ///
    /// # Errors
    /// [`Failure`], sorted by what may be done next.
    fn call(
        &self,
        account: &AccountName,
        request: &Request,
        ids: CallIds,
        permit: Permit,
        token: &Token,
    ) -> impl Future<Output = Result<Answer, Failure>> + Send;
}
