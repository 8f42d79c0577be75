//! Keeps tokens, so that one request serves a whole life of a token, in this process and in the fleet.
//!
//! Promises: one request at a time per key; renewal five minutes early, spread by up to a minute; a failed renewal is no
//! error while the old token serves; one forced renewal per token version; refusals are remembered for a minute and
//! throttles for their whole length. A store that fails makes each process serve itself, never fails a call.
//! Source: contract/identity.md, sections 6 and 8.

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    endpoint::{Identity, Refusal, Remembered, SignInError, Token, TokenEndpoint, TokenVersion},
    settings::Settings,
    shelf::{self, Held, Key},
};
use crate::{
    clock,
    domain::{
        failure::{Cause, Kind},
        ids::Sha256,
        time::Moment,
    },
    seal::Keyring,
};

/// A token renewed by force and refused within this time will not get better by another.
const JUST_RENEWED: Duration = Duration::from_mins(5);
/// After a failed renewal the old token serves this long before the next try.
const RENEWAL_PAUSE: Duration = Duration::from_secs(30);
/// How often a process looks whether the lease holder has stored the token.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// The store did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the token store failed: {0}")]
pub struct StoreFailed(pub String);

/// Where processes share sealed tokens. Every method ends within a few seconds, or is cut off after two.
pub trait TokenStore: Send + Sync {
    /// The sealed token under this key, if it has not expired.
    fn load(&self, key: &str) -> impl Future<Output = Result<Option<Vec<u8>>, StoreFailed>> + Send;
    /// Keeps the sealed token until `expires`.
    fn store(&self, key: &str, sealed: &[u8], expires: Moment) -> impl Future<Output = Result<(), StoreFailed>> + Send;
    /// Takes the key's lease for this process, or prolongs it; `false` when another process has it.
    fn lease(&self, key: &str, span: Duration) -> impl Future<Output = Result<bool, StoreFailed>> + Send;
    /// Gives the lease back if this process has it.
    fn release(&self, key: &str) -> impl Future<Output = Result<(), StoreFailed>> + Send;
}

/// No sharing: each process serves itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessOnly;

impl TokenStore for ProcessOnly {
    async fn load(&self, _: &str) -> Result<Option<Vec<u8>>, StoreFailed> {
        Ok(None)
    }

    async fn store(&self, _: &str, _: &[u8], _: Moment) -> Result<(), StoreFailed> {
        Ok(())
    }

    async fn lease(&self, _: &str, _: Duration) -> Result<bool, StoreFailed> {
        Ok(true)
    }

    async fn release(&self, _: &str) -> Result<(), StoreFailed> {
        Ok(())
    }
}

/// Where tokens come from.
pub trait SignIn: Send + Sync {
    /// Asks once; `now` is the instant before the request.
    fn sign_in(&self, identity: &Identity, now: Moment) -> impl Future<Output = Result<Token, SignInError>> + Send;
}

impl SignIn for TokenEndpoint {
    fn sign_in(&self, identity: &Identity, now: Moment) -> impl Future<Output = Result<Token, SignInError>> + Send {
        self.request(identity, now)
    }
}

/// Time and chance.
pub trait Clock: Send + Sync {
    /// The present, never running backwards.
    fn now(&self) -> Moment;
    /// From 0 (included) to 1 (excluded).
    fn chance(&self) -> f64;
    /// Waits.
    fn sleep(&self, wait: Duration) -> impl Future<Output = ()> + Send;
}

/// The system's clock: the wall clock's start, counted on by the time since boot, so that a set clock ages no token.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Moment,
    booted: Duration,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: clock::moment(), booted: clock::boot_time() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        self.start.after(clock::boot_time().saturating_sub(self.booted))
    }

    fn chance(&self) -> f64 {
        clock::chance()
    }

    fn sleep(&self, wait: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(wait)
    }
}

/// The tokens of this process.
#[derive(Debug)]
pub struct Cache<S, I = TokenEndpoint, C = SystemClock> {
    store: S,
    sign_in: I,
    clock: C,
    keyring: Keyring,
    settings: Settings,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    requests: AtomicU64,
}

#[derive(Debug, Default)]
struct Slot {
    /// Held while a token is asked for.
    flight: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: Option<Held>,
    /// The version that an API refused: never handed out again.
    refused: Option<TokenVersion>,
    /// The still valid token is not renewed before.
    renewal_pause: Option<Moment>,
    closed: Option<Closed>,
    /// Flights that ended, and how the last one failed: its waiters share the result.
    flights: u64,
    last_error: Option<SignInError>,
}

/// No request goes out before `until`.
#[derive(Debug)]
struct Closed {
    /// When it was closed.
    at: Moment,
    until: Moment,
    error: SignInError,
    /// The credential that was refused; `None` holds for every credential.
    credential: Option<Sha256>,
}

enum Glance {
    Use(Token),
    /// It serves, but should be renewed.
    Due(Token),
    Closed(SignInError),
    /// None serves; the number of flights so far.
    Need(u64),
}

/// One errand for a token.
struct Errand<'a> {
    identity: &'a Identity,
    key: Key,
    slot: Arc<Slot>,
    /// Until when the caller waits.
    deadline: Moment,
}

impl Slot {
    /// The lock is never held across an await, and what it guards is whole after every statement.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn glance(&self, now: Moment, credential: &Credential256) -> Glance {
        let is_closed =
            |closed: &&Closed| now < closed.until && closed.credential.is_none_or(|refused| refused == credential.0);
        let closed = self.closed.as_ref().filter(is_closed);
        let serves = |held: &&Held| held.is_usable(now) && self.refused.as_ref() != Some(&held.token.version);
        match (self.held.as_ref().filter(serves), closed) {
            (Some(held), None) if now >= held.due && self.renewal_pause.is_none_or(|until| now >= until) => {
                Glance::Due(held.token.clone())
            }
            (Some(held), _) => Glance::Use(held.token.clone()),
            (None, Some(closed)) => Glance::Closed(match &closed.error {
                SignInError::Throttled { .. } => SignInError::Throttled { wait: closed.until.since(now) },
                SignInError::Refused(refusal) => {
                    let remembered = Remembered { ago: now.since(closed.at), rest: closed.until.since(now) };
                    SignInError::Refused(Refusal { remembered: Some(Box::new(remembered)), ..refusal.clone() })
                }
                error @ SignInError::Transient { .. } => error.clone(),
            }),
            (None, None) => Glance::Need(self.flights),
        }
    }

    /// An API refused this version: it is not handed out again, and a fresh one closes the key.
    fn refuse(&mut self, version: &TokenVersion, audience: &str, now: Moment) {
        let is_other = |held: &Held| held.token.version != *version;
        if self.held.as_ref().is_some_and(is_other) {
            return;
        }
        self.refused = Some(version.clone());
        if let Some(held) = &self.held
            && held.is_forced
            && now.since(held.obtained_at) < JUST_RENEWED
        {
            let until = held.obtained_at.after(JUST_RENEWED);
            let error = SignInError::Refused(Refusal::of_fresh_token(audience));
            self.closed = Some(Closed { at: now, until, error, credential: None });
        }
    }

    fn land(
        &mut self,
        outcome: &Result<Option<Held>, SignInError>,
        now: Moment,
        credential: &Credential256,
        settings: &Settings,
    ) {
        self.flights = self.flights.wrapping_add(1);
        self.last_error = None;
        match outcome {
            Ok(Some(held)) => {
                self.held = Some(held.clone());
                (self.refused, self.renewal_pause, self.closed) = (None, None, None);
            }
            Ok(None) => self.renewal_pause = Some(now.after(settings.lease)),
            Err(error) => {
                let closed = match error {
                    SignInError::Refused(_) => Some((settings.refused_for, Some(credential.0))),
                    SignInError::Throttled { wait } => Some((*wait, None)),
                    SignInError::Transient { .. } => None,
                };
                self.renewal_pause = Some(now.after(RENEWAL_PAUSE));
                self.closed = closed.map(|(wait, credential)| Closed {
                    at: now,
                    until: now.after(wait),
                    error: error.clone(),
                    credential,
                });
                self.last_error = Some(error.clone());
            }
        }
    }
}

/// A credential's fingerprint.
struct Credential256(Sha256);

impl<S: TokenStore, I: SignIn, C: Clock> Cache<S, I, C> {
    /// A cache over this store; `keyring` seals what is stored.
    #[must_use]
    pub fn new(store: S, sign_in: I, clock: C, keyring: Keyring) -> Self {
        let settings = Settings::default();
        Self { store, sign_in, clock, keyring, settings, slots: Mutex::default(), requests: AtomicU64::new(0) }
    }

    /// The same cache with other waits.
    #[must_use]
    pub const fn with(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Token requests of this process so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// A token that serves now, waiting at most `within`.
    ///
    /// # Errors
    /// [`SignInError`] when there is none and none can be had.
    ///
    /// # Cancel safety
    /// Cancel safe; a store's lease that was held runs out by itself.
    pub async fn token(&self, identity: &Identity, within: Duration) -> Result<Token, SignInError> {
        let errand = self.errand(identity, within);
        self.bounded(within, self.acquire(&errand)).await
    }

    /// Another token than the one an API refused with 401: one forced renewal per version, however many callers ask.
    ///
    /// # Errors
    /// [`SignInError::Refused`] when the refused token had just been renewed itself; else as [`Cache::token`].
    ///
    /// # Cancel safety
    /// As [`Cache::token`].
    pub async fn renew(
        &self,
        identity: &Identity,
        refused: &TokenVersion,
        within: Duration,
    ) -> Result<Token, SignInError> {
        let errand = self.errand(identity, within);
        errand.slot.state().refuse(refused, &identity.audience, self.clock.now());
        self.bounded(within, self.acquire(&errand)).await
    }

    /// Forgets token, refusal and pause of an identity: an operator has changed something.
    pub fn forget(&self, identity: &Identity) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(Key::of(identity).hash());
    }

    fn errand<'a>(&self, identity: &'a Identity, within: Duration) -> Errand<'a> {
        let key = Key::of(identity);
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = Arc::clone(slots.entry(key.hash().to_owned()).or_default());
        Errand { identity, key, slot, deadline: self.clock.now().after(within) }
    }

    async fn bounded(
        &self,
        within: Duration,
        work: impl Future<Output = Result<Token, SignInError>> + Send,
    ) -> Result<Token, SignInError> {
        let cause = Cause::new(Kind::Timeout, format!("no token within {} s", within.as_secs()));
        tokio::time::timeout(within, work).await.unwrap_or(Err(SignInError::Transient { cause }))
    }

    async fn acquire(&self, errand: &Errand<'_>) -> Result<Token, SignInError> {
        let credential = Credential256(errand.identity.credential.fingerprint());
        let glance = || errand.slot.state().glance(self.clock.now(), &credential);
        let seen = match glance() {
            Glance::Use(token) => return Ok(token),
            Glance::Closed(error) => return Err(error),
            Glance::Due(token) => {
                // Somebody else may be renewing it; the old one serves meanwhile.
                let Ok(_flight) = errand.slot.flight.try_lock() else { return Ok(token) };
                let renewed = self.fly(errand, &credential, Some(&token)).await;
                return Ok(renewed.ok().flatten().map_or(token, |held| held.token));
            }
            Glance::Need(flights) => flights,
        };
        let _flight = errand.slot.flight.lock().await;
        match glance() {
            Glance::Use(token) | Glance::Due(token) => return Ok(token),
            Glance::Closed(error) => return Err(error),
            Glance::Need(flights) if flights != seen => {
                if let Some(error) = errand.slot.state().last_error.clone() {
                    return Err(error);
                }
            }
            Glance::Need(_) => {}
        }
        match self.fly(errand, &credential, None).await? {
            Some(held) => Ok(held.token),
            None => Err(SignInError::Transient { cause: Cause::new(Kind::Internal, "another process took the lease") }),
        }
    }

    /// Gets a token and notes what became of it. `serving` is the old token while it still serves.
    async fn fly(
        &self,
        errand: &Errand<'_>,
        credential: &Credential256,
        serving: Option<&Token>,
    ) -> Result<Option<Held>, SignInError> {
        let refused = errand.slot.state().refused.clone();
        let mut outcome = self.fetch(errand, serving, refused.as_ref()).await;
        if let Ok(Some(held)) = &outcome
            && Some(&held.token.version) == refused.as_ref()
        {
            outcome = Err(SignInError::Refused(Refusal::of_fresh_token(&errand.identity.audience)));
        }
        errand.slot.state().land(&outcome, self.clock.now(), credential, &self.settings);
        outcome
    }

    /// From the store, else from the endpoint under the store's lease. `None` when another process renews a token that
    /// still serves.
    async fn fetch(
        &self,
        errand: &Errand<'_>,
        serving: Option<&Token>,
        refused: Option<&TokenVersion>,
    ) -> Result<Option<Held>, SignInError> {
        loop {
            if let Some(held) = self.load(errand, serving, refused).await {
                return Ok(Some(held));
            }
            match self.guarded(self.store.lease(errand.key.hash(), self.settings.lease)).await {
                // ORDER: look once more under the lease: its last holder may have stored a token since our look.
                Ok(true) => {
                    let outcome = match self.load(errand, serving, refused).await {
                        Some(held) => Ok(held),
                        None => self.ask(errand, serving.is_some(), refused.is_some()).await,
                    };
                    if let Ok(held) = &outcome {
                        self.save(errand, held).await;
                    }
                    let released = self.guarded(self.store.release(errand.key.hash())).await;
                    note(released.err().as_ref());
                    return outcome.map(Some);
                }
                Ok(false) if serving.is_some() => return Ok(None),
                // For as long as the caller has time: whoever asked without the lease would do so with all who wait, at once.
                Ok(false) => self.clock.sleep(LOOK_AGAIN.mul_f64(1.0 + self.clock.chance())).await,
                Err(error) => {
                    note(Some(&error));
                    return self.ask(errand, serving.is_some(), refused.is_some()).await.map(Some);
                }
            }
        }
    }

    /// Asks the endpoint: once while an old token serves, else up to as often as is set, within the deadline.
    async fn ask(&self, errand: &Errand<'_>, is_serving: bool, is_forced: bool) -> Result<Held, SignInError> {
        let mut attempt = 1;
        loop {
            let now = self.clock.now();
            self.requests.fetch_add(1, Ordering::Relaxed);
            let error = match self.sign_in.sign_in(errand.identity, now).await {
                Ok(token) => return Ok(Held::new(token, now, is_forced, self.clock.chance(), &self.settings)),
                Err(error) => error,
            };
            let SignInError::Transient { cause } = &error else { return Err(error) };
            let wait =
                self.settings.backoff(attempt).mul_f64(self.clock.chance()).max(cause.retry_after.unwrap_or_default());
            if is_serving || attempt >= self.settings.max_attempts || self.clock.now().after(wait) >= errand.deadline {
                return Err(error);
            }
            attempt += 1;
            self.clock.sleep(wait).await;
            let prolonged = self.guarded(self.store.lease(errand.key.hash(), self.settings.lease)).await;
            note(prolonged.err().as_ref());
        }
    }

    async fn load(&self, errand: &Errand<'_>, serving: Option<&Token>, refused: Option<&TokenVersion>) -> Option<Held> {
        let loaded = self.guarded(self.store.load(errand.key.hash())).await;
        let sealed = loaded.inspect_err(|error| note(Some(error))).ok()??;
        let held = shelf::open(&self.keyring, &errand.key, &sealed, self.clock.chance(), &self.settings)?;
        let now = self.clock.now();
        let is_new = serving.is_none() || now < held.due;
        (is_new && held.is_usable(now) && refused != Some(&held.token.version)).then_some(held)
    }

    async fn save(&self, errand: &Errand<'_>, held: &Held) {
        let Some(sealed) = shelf::seal(&self.keyring, &errand.key, held) else { return };
        let stored = self.guarded(self.store.store(errand.key.hash(), &sealed, held.usable_until)).await;
        note(stored.err().as_ref());
    }

    async fn guarded<T>(&self, work: impl Future<Output = Result<T, StoreFailed>> + Send) -> Result<T, StoreFailed> {
        let late = || StoreFailed("no answer in time".to_owned());
        tokio::time::timeout(STORE_TIMEOUT, work).await.unwrap_or_else(|_| Err(late()))
    }
}

fn note(error: Option<&StoreFailed>) {
    if let Some(error) = error {
        tracing::warn!(%error, "token store failed; this process serves itself");
    }
}

#[cfg(test)]
mod tests;
