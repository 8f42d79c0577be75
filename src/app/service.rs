//! The hardware service and its sign-in, for all configured accounts.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::identity::{Counted, Shelf, Unusable, identity};
use crate::{
    clock,
    config::Settings,
    domain::{
        failure::Failure,
        ids::AccountName,
        service::{Answer, Request},
    },
    engine::ports::{self, CallIds, Permit, SignIn, Token},
    identity::{Cache, Identity, Refusal, SignInError, TokenVersion},
    partner_center::hardware,
    telemetry::{CallClass, Metrics},
};

/// A secret is fetched again after so long: it may have been changed in its file.
const FETCH_AGAIN: Duration = Duration::from_secs(60);

/// A sign-in whose endpoint gives no usable answer is tried again after so long.
const LATER: Duration = Duration::from_secs(15);

/// The service, as the engine calls it.
pub struct Service {
    settings: Arc<Settings>,
    tokens: Cache<Shelf, Counted>,
    client: hardware::Client,
    identities: Mutex<BTreeMap<AccountName, (Instant, Arc<Identity>)>>,
    metrics: Metrics,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Service {
    pub(super) fn new(
        settings: Arc<Settings>,
        tokens: Cache<Shelf, Counted>,
        client: hardware::Client,
        metrics: Metrics,
    ) -> Self {
        Self { settings, tokens, client, identities: Mutex::default(), metrics }
    }

    /// Fetches and checks the account's credential without signing in.
    ///
    /// # Errors
    /// [`Unusable`] names the setting.
    pub fn check_credential(&self, name: &AccountName) -> Result<(), Unusable> {
        let Some(account) = self.settings.accounts.get(name) else { return Ok(()) };
        identity(&self.settings, name, account).map(|_| ())
    }

    /// How long a sign-in may take: several attempts within one hand-over.
    fn within(&self) -> Duration {
        self.settings.identity.response_timeout.saturating_mul(2)
    }

    fn identity(&self, name: &AccountName) -> Result<Arc<Identity>, SignIn> {
        let now = clock::monotonic();
        let mut known = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, identity)) = known.get(name)
            && now.saturating_duration_since(*at) < FETCH_AGAIN
        {
            return Ok(Arc::clone(identity));
        }
        let refused = |message: String, next: &str| {
            let (next, ago) = (next.to_owned(), Duration::ZERO);
            SignIn::Refused { message, next, ago, again: FETCH_AGAIN }
        };
        let Some(account) = self.settings.accounts.get(name) else {
            return Err(refused(format!("account {name} is not configured"), "configure it: longshore config show"));
        };
        let fresh = identity(&self.settings, name, account).map_err(|unusable| {
            refused(unusable.to_string(), "mend the account's credential, then: longshore auth test")
        })?;
        let fresh = Arc::new(fresh);
        known.insert(name.clone(), (now, Arc::clone(&fresh)));
        Ok(fresh)
    }

    fn token(&self, answer: Result<crate::identity::Token, SignInError>) -> Result<Token, SignIn> {
        match answer {
            Ok(token) => Ok(Token { version: token.version.to_string(), secret: token.secret }),
            Err(SignInError::Refused(refusal)) => Err(told(refusal, self.settings.identity.refused_for)),
            Err(error @ SignInError::Throttled { wait }) => {
                Err(SignIn::Throttled { message: error.to_string(), again: wait })
            }
            Err(error @ SignInError::Transient { .. }) => {
                let again = LATER.min(self.settings.identity.backoff_cap);
                Err(SignIn::Later { message: error.to_string(), again })
            }
        }
    }

    /// The life of the account's token and its version, signing in when there is none.
    ///
    /// # Errors
    /// [`SignIn`].
    pub async fn test(&self, name: &AccountName) -> Result<(crate::identity::Token, Token), SignIn> {
        let identity = self.identity(name)?;
        let token = self.tokens.token(&identity, self.within()).await;
        let shown = self.token(token.clone())?;
        token.map(|token| (token, shown)).map_err(|error| SignIn::Later { message: error.to_string(), again: LATER })
    }

    /// One call for a person, outside any job; the caller has asked for its permit.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn ask(&self, request: &Request, token: &Token, ids: CallIds) -> Result<Answer, Failure> {
        let begun = clock::monotonic();
        let answer = self.client.call(request, &token.secret, ids.correlation, ids.request).await;
        self.metrics.call(request.operation(), class(&answer), begun.elapsed());
        if let Err(Failure::Throttled(pause)) = &answer {
            self.metrics.throttled(pause.retry_after.unwrap_or(self.settings.quota.default_pause));
        }
        answer
    }
}

/// A refusal for the engine; one that the cache remembers is as old as it is, and waits for the rest of its time.
fn told(refusal: Refusal, refused_for: Duration) -> SignIn {
    let (ago, again) = match refusal.remembered {
        Some(remembered) => (remembered.ago, remembered.rest),
        None => (Duration::ZERO, refused_for),
    };
    SignIn::Refused { message: refusal.message, next: refusal.next_step, ago, again }
}

const fn class(answer: &Result<Answer, Failure>) -> CallClass {
    match answer {
        Ok(_) => CallClass::Ok,
        Err(Failure::Transient(_) | Failure::Unauthorized(_)) => CallClass::Transient,
        Err(Failure::Throttled(_)) => CallClass::Throttled,
        Err(Failure::Indeterminate(_)) => CallClass::Indeterminate,
        Err(Failure::Permanent(_)) => CallClass::Permanent,
    }
}

impl ports::Service for Service {
    fn knows(&self, account: &AccountName) -> bool {
        self.settings.accounts.contains_key(account)
    }

    async fn sign_in(&self, account: &AccountName) -> Result<Token, SignIn> {
        let identity = self.identity(account)?;
        self.token(self.tokens.token(&identity, self.within()).await)
    }

    async fn renew(&self, account: &AccountName, refused: &Token) -> Result<Token, SignIn> {
        // The secret may have been changed since.
        self.identities.lock().unwrap_or_else(PoisonError::into_inner).remove(account);
        let identity = self.identity(account)?;
        self.token(self.tokens.renew(&identity, &TokenVersion::of(&refused.secret), self.within()).await)
    }

    async fn call(
        &self,
        _: &AccountName,
        request: &Request,
        ids: CallIds,
        _permit: Permit,
        token: &Token,
    ) -> Result<Answer, Failure> {
        self.ask(request, token, ids).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Remembered;

    #[test]
    fn a_remembered_refusal_is_as_old_as_it_is_and_waits_for_the_rest_of_its_time() {
        let seconds = Duration::from_secs;
        let remembered = Remembered { ago: seconds(30), rest: seconds(29) };
        for (remembered, times) in
            [(None, (seconds(0), seconds(60))), (Some(Box::new(remembered)), (seconds(30), seconds(29)))]
        {
            let refusal = Refusal {
                codes: Vec::new(),
                error: "invalid_client".to_owned(),
                message: "wrong".to_owned(),
                next_step: "fix".to_owned(),
                http_status: Some(401),
                remembered,
            };
            let SignIn::Refused { ago, again, .. } = told(refusal, seconds(60)) else { panic!("it is refused") };
            assert_eq!((ago, again), times);
        }
    }
}
