use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, AtomicUsize},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::join_all;
use secrecy::SecretString;
use tokio::time::{Instant, advance};
use zeroize::Zeroizing;

use super::*;
use crate::identity::{Credential, EndpointVersion};

const WITHIN: Duration = Duration::from_mins(2);
const MINUTE: Duration = Duration::from_mins(1);

/// Tokio's paused clock; chance is always a half.
struct TestClock(Instant);

impl Clock for TestClock {
    fn now(&self) -> Moment {
        Moment::from_millis(1_793_527_200_000).after(self.0.elapsed())
    }

    fn chance(&self) -> f64 {
        0.5
    }

    fn sleep(&self, wait: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(wait)
    }
}

/// Answers from a script, then with fresh tokens `t1`, `t2`, … of one life.
struct Script {
    answers: Mutex<VecDeque<SignInError>>,
    life: Duration,
    made: Arc<AtomicUsize>,
    is_constant: AtomicBool,
}

impl SignIn for Script {
    async fn sign_in(&self, _: &Identity, now: Moment) -> Result<Token, SignInError> {
        for _ in 0..3 {
            // Lets every other caller come as far as it can.
            tokio::task::yield_now().await;
        }
        if let Some(error) = self.answers.lock().unwrap().pop_front() {
            return Err(error);
        }
        let number =
            if self.is_constant.load(Ordering::SeqCst) { 0 } else { self.made.fetch_add(1, Ordering::SeqCst) + 1 };
        let secret = SecretString::from(format!("t{number}"));
        let version = TokenVersion::of(&secret);
        Ok(Token { secret, expires_at: now.after(self.life), renew_at: None, version })
    }
}

#[derive(Clone, Default)]
struct Shared {
    tokens: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    leases: Arc<Mutex<HashMap<String, (u32, Instant)>>>,
    is_broken: Arc<AtomicBool>,
}

/// One process's view of the shared store.
struct View(Shared, u32);

impl View {
    fn check(&self) -> Result<(), StoreFailed> {
        let is_broken = self.0.is_broken.load(Ordering::SeqCst);
        if is_broken { Err(StoreFailed("broken".to_owned())) } else { Ok(()) }
    }
}

impl TokenStore for View {
    async fn load(&self, key: &str) -> Result<Option<Vec<u8>>, StoreFailed> {
        self.check()?;
        let found = self.0.tokens.lock().unwrap().get(key).cloned();
        for _ in 0..self.1 % 16 {
            // The answer is on its way, some longer than others: by now it may be old.
            tokio::task::yield_now().await;
        }
        Ok(found)
    }

    async fn store(&self, key: &str, sealed: &[u8], _: Moment) -> Result<(), StoreFailed> {
        self.check()?;
        self.0.tokens.lock().unwrap().insert(key.to_owned(), sealed.to_vec());
        Ok(())
    }

    async fn lease(&self, key: &str, span: Duration) -> Result<bool, StoreFailed> {
        self.check()?;
        let mut leases = self.0.leases.lock().unwrap();
        let is_free = leases.get(key).is_none_or(|(owner, until)| *owner == self.1 || *until <= Instant::now());
        if is_free {
            leases.insert(key.to_owned(), (self.1, Instant::now() + span));
        }
        Ok(is_free)
    }

    async fn release(&self, key: &str) -> Result<(), StoreFailed> {
        self.check()?;
        self.0.leases.lock().unwrap().retain(|held, (owner, _)| held != key || *owner != self.1);
        Ok(())
    }
}

type TestCache<S = ProcessOnly> = Cache<S, Script, TestClock>;

fn keyring() -> Keyring {
    Keyring::new([Zeroizing::new([7; 32])]).unwrap()
}

fn script(answers: impl IntoIterator<Item = SignInError>, life: Duration) -> Script {
    let answers = Mutex::new(answers.into_iter().collect());
    Script { answers, life, made: Arc::default(), is_constant: AtomicBool::new(false) }
}

fn cache(answers: impl IntoIterator<Item = SignInError>, life: Duration) -> TestCache {
    Cache::new(ProcessOnly, script(answers, life), TestClock(Instant::now()), keyring())
}

/// Processes over one store that share the endpoint's count of tokens.
fn fleet(processes: u32, shared: &Shared) -> Vec<TestCache<View>> {
    let (made, start) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let process = |number| {
        let script = Script { made: made.clone(), ..script([], MINUTE * 60) };
        Cache::new(View(shared.clone(), number), script, TestClock(start), keyring())
    };
    (0..processes).map(process).collect()
}

fn identity() -> Identity {
    Identity {
        authority: "https://login.example".parse().unwrap(),
        tenant: "7d1f0c52-3a6e-4b19-9f41-5c2e8ab70d13".to_owned(),
        version: EndpointVersion::V1,
        client_id: "c0a9e6d4-58b7-4f02-8e3d-91a64b7f2c58".to_owned(),
        credential: Credential::Secret(SecretString::from("secret")),
        audience: "https://manage.devcenter.microsoft.com".to_owned(),
    }
}

fn version(token: &str) -> TokenVersion {
    TokenVersion::of(&SecretString::from(token))
}

fn transient() -> SignInError {
    SignInError::Transient { cause: Cause::new(Kind::ServerError, "503") }
}

fn refusal() -> SignInError {
    SignInError::Refused(Refusal {
        codes: vec![7_000_215],
        error: "invalid_client".to_owned(),
        message: "wrong".to_owned(),
        next_step: "fix".to_owned(),
        http_status: Some(401),
        remembered: None,
    })
}

/// The same refusal from memory, as old as this.
fn remembered(ago: Duration) -> SignInError {
    let SignInError::Refused(refusal) = refusal() else { unreachable!() };
    let remembered = Remembered { ago, rest: MINUTE.checked_sub(ago).unwrap() };
    SignInError::Refused(Refusal { remembered: Some(Box::new(remembered)), ..refusal })
}

async fn get<S: TokenStore>(cache: &TestCache<S>) -> Result<TokenVersion, SignInError> {
    cache.token(&identity(), WITHIN).await.map(|token| token.version)
}

async fn renew<S: TokenStore>(cache: &TestCache<S>, refused: &str) -> Result<TokenVersion, SignInError> {
    cache.renew(&identity(), &version(refused), WITHIN).await.map(|token| token.version)
}

#[tokio::test(start_paused = true)]
async fn one_request_serves_a_thousand_calls() {
    let cache = cache([], MINUTE * 60);
    let all = join_all((0..1_000).map(|_| get(&cache))).await;
    assert!(all.iter().all(|token| *token == Ok(version("t1"))));
    assert_eq!(cache.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn callers_share_a_failure_too() {
    let cache = cache([refusal()], MINUTE * 60);
    let all = join_all((0..50).map(|_| get(&cache))).await;
    assert_eq!(all.iter().filter(|outcome| **outcome == Err(refusal())).count(), 1, "one was refused");
    assert_eq!(all.iter().filter(|outcome| **outcome == Err(remembered(Duration::ZERO))).count(), 49);
    let failing = self::cache(std::iter::repeat_n(transient(), 4), MINUTE * 60);
    let all = join_all((0..50).map(|_| get(&failing))).await;
    assert!(all.iter().all(|outcome| *outcome == Err(transient())));
    assert_eq!((cache.requests(), failing.requests()), (1, 4));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_early_and_the_old_one_serves_when_that_fails() {
    let cache = cache([], MINUTE * 60);
    get(&cache).await.unwrap();
    // 60 min - 5 min - half a minute of spread.
    advance(MINUTE * 54 + Duration::from_secs(29)).await;
    assert_eq!(get(&cache).await, Ok(version("t1")));
    advance(Duration::from_secs(1)).await;
    cache.sign_in.answers.lock().unwrap().push_back(transient());
    assert_eq!(get(&cache).await, Ok(version("t1")), "a failed renewal is no error");
    assert_eq!(cache.requests(), 2);
    assert_eq!(get(&cache).await, Ok(version("t1")));
    assert_eq!(cache.requests(), 2, "not tried again at once");
    advance(RENEWAL_PAUSE).await;
    assert_eq!(get(&cache).await, Ok(version("t2")));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_while_the_old_token_serves_is_no_error_until_it_ends() {
    let cache = cache([], MINUTE * 60);
    get(&cache).await.unwrap();
    advance(MINUTE * 56).await;
    cache.sign_in.answers.lock().unwrap().extend(std::iter::repeat_n(refusal(), 9));
    assert_eq!(get(&cache).await, Ok(version("t1")));
    advance(MINUTE * 3 + Duration::from_millis(1)).await;
    let refused = get(&cache).await;
    assert!(matches!(refused, Err(SignInError::Refused(_))), "its last minute is not handed out: {refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_short_life_is_renewed_at_its_half() {
    let cache = cache([], Duration::from_secs(20));
    get(&cache).await.unwrap();
    advance(Duration::from_millis(9_999)).await;
    assert_eq!(get(&cache).await, Ok(version("t1")));
    advance(Duration::from_millis(1)).await;
    assert_eq!(get(&cache).await, Ok(version("t2")));
}

#[tokio::test(start_paused = true)]
async fn a_401_forces_one_renewal_however_many_ask() {
    let cache = cache([], MINUTE * 60);
    get(&cache).await.unwrap();
    let all = join_all((0..100).map(|_| renew(&cache, "t1"))).await;
    assert!(all.iter().all(|token| *token == Ok(version("t2"))));
    assert_eq!(renew(&cache, "t1").await, Ok(version("t2")), "a late caller takes the new one");
    assert_eq!(cache.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_fresh_token_that_is_refused_closes_the_key_for_five_minutes() {
    let cache = cache([], MINUTE * 60);
    get(&cache).await.unwrap();
    renew(&cache, "t1").await.unwrap();
    for outcome in [renew(&cache, "t2").await, renew(&cache, "t2").await, get(&cache).await] {
        assert!(matches!(outcome, Err(SignInError::Refused(refusal)) if refusal.error == "token_refused"));
    }
    assert_eq!(cache.requests(), 2);
    advance(JUST_RENEWED).await;
    assert_eq!(get(&cache).await, Ok(version("t3")), "never the refused one again");
    assert!(renew(&cache, "t3").await.is_err(), "it was made because of a refusal: no second one at once");
    assert_eq!(cache.requests(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_renewed_token_may_be_renewed_again_when_it_has_served() {
    let cache = cache([], MINUTE * 60);
    get(&cache).await.unwrap();
    renew(&cache, "t1").await.unwrap();
    advance(JUST_RENEWED).await;
    assert_eq!(renew(&cache, "t2").await, Ok(version("t3")));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_gives_the_refused_token_again_refuses() {
    let cache = cache([], MINUTE * 60);
    cache.sign_in.is_constant.store(true, Ordering::SeqCst);
    get(&cache).await.unwrap();
    for _ in 0..3 {
        assert!(matches!(renew(&cache, "t0").await, Err(SignInError::Refused(_))));
    }
    assert_eq!(cache.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_remembered_for_a_minute_and_for_its_credential_only() {
    let cache = cache([refusal()], MINUTE * 60);
    assert_eq!(get(&cache).await, Err(refusal()));
    advance(Duration::from_secs(30)).await;
    assert_eq!(get(&cache).await, Err(remembered(Duration::from_secs(30))), "nobody was asked");
    advance(Duration::from_millis(29_999)).await;
    assert_eq!(get(&cache).await, Err(remembered(Duration::from_millis(59_999))));
    assert_eq!(cache.requests(), 1);
    let repaired = Identity { credential: Credential::Secret(SecretString::from("new")), ..identity() };
    assert!(cache.token(&repaired, WITHIN).await.is_ok(), "a new secret is tried at once");
    let again = self::cache([refusal()], MINUTE * 60);
    assert!(get(&again).await.is_err());
    advance(MINUTE).await;
    assert!(get(&again).await.is_ok());
    let told = self::cache([refusal()], MINUTE * 60);
    assert!(get(&told).await.is_err());
    told.forget(&identity());
    assert!(get(&told).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_throttle_is_honoured_by_every_caller_for_its_whole_length() {
    let cache = cache([SignInError::Throttled { wait: MINUTE * 5 }], MINUTE * 60);
    assert_eq!(get(&cache).await, Err(SignInError::Throttled { wait: MINUTE * 5 }));
    advance(MINUTE * 2).await;
    assert_eq!(get(&cache).await, Err(SignInError::Throttled { wait: MINUTE * 3 }));
    advance(Duration::from_millis(179_999)).await;
    assert_eq!(get(&cache).await, Err(SignInError::Throttled { wait: Duration::from_millis(1) }));
    assert_eq!(cache.requests(), 1);
    advance(Duration::from_millis(1)).await;
    assert!(get(&cache).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn transient_failures_are_repeated_with_backoff_within_the_deadline() {
    let cache = cache(std::iter::repeat_n(transient(), 3), MINUTE * 60);
    let start = Instant::now();
    assert_eq!(get(&cache).await, Ok(version("t1")));
    // Half of 1 s, 2 s and 4 s.
    assert_eq!((cache.requests(), start.elapsed()), (4, Duration::from_millis(3_500)));
    let mut paused = Cause::new(Kind::ServerError, "503");
    paused.retry_after = Some(MINUTE);
    let slow = self::cache([SignInError::Transient { cause: paused }], MINUTE * 60);
    let outcome = slow.token(&identity(), Duration::from_secs(10)).await;
    assert!(matches!(outcome, Err(SignInError::Transient { .. })), "no use waiting beyond the deadline");
    assert_eq!(slow.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn identities_that_differ_in_one_part_never_share_a_token() {
    let cache = cache([], MINUTE * 60);
    let one = identity();
    let others = [
        Identity { authority: "https://login.other".parse().unwrap(), ..one.clone() },
        Identity { tenant: "other.example".to_owned(), ..one.clone() },
        Identity { client_id: "other".to_owned(), ..one.clone() },
        Identity { audience: "https://onestore.microsoft.com".to_owned(), ..one.clone() },
    ];
    let mut seen = vec![cache.token(&one, WITHIN).await.unwrap().version];
    for other in others {
        let token = cache.token(&other, WITHIN).await.unwrap().version;
        assert!(!seen.contains(&token));
        seen.push(token);
    }
    let same = Identity { tenant: one.tenant.to_uppercase(), ..one };
    assert_eq!(cache.token(&same, WITHIN).await.unwrap().version, seen[0]);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_starts_at_once_asks_once() {
    let shared = Shared::default();
    let fleet = fleet(200, &shared);
    let all = join_all(fleet.iter().map(get)).await;
    assert!(all.iter().all(|token| *token == Ok(version("t1"))));
    assert_eq!(fleet.iter().map(Cache::requests).sum::<u64>(), 1);
    assert!(shared.leases.lock().unwrap().is_empty(), "the lease is given back");
    let stored = shared.tokens.lock().unwrap().values().next().unwrap().clone();
    let bytes = URL_SAFE_NO_PAD.decode(stored).unwrap();
    assert!(!bytes.windows(10).any(|window| window == b"expires_at"), "what is stored is sealed");
}

#[tokio::test(start_paused = true)]
async fn one_process_renews_while_the_others_go_on() {
    let shared = Shared::default();
    let fleet = fleet(20, &shared);
    join_all(fleet.iter().map(get)).await;
    advance(MINUTE * 55).await;
    let all = join_all(fleet.iter().map(get)).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(fleet.iter().map(Cache::requests).sum::<u64>(), 2);
    advance(Settings::default().lease).await;
    let all = join_all(fleet.iter().map(get)).await;
    assert!(all.iter().all(|token| *token == Ok(version("t2"))));
    assert_eq!(fleet.iter().map(Cache::requests).sum::<u64>(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_401_forces_one_renewal_in_the_whole_fleet() {
    let shared = Shared::default();
    let fleet = fleet(20, &shared);
    join_all(fleet.iter().map(get)).await;
    let all = join_all(fleet.iter().map(|process| renew(process, "t1"))).await;
    assert!(all.iter().all(|token| *token == Ok(version("t2"))), "{all:?}");
    assert_eq!(fleet.iter().map(Cache::requests).sum::<u64>(), 2);
    let refused = renew(&fleet[3], "t2").await;
    assert!(matches!(refused, Err(SignInError::Refused(_))), "known to be fresh in every process: {refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_holder_that_died_is_waited_for_no_longer_than_its_lease() {
    let shared = Shared::default();
    let fleet = fleet(1, &shared);
    let key = Key::of(&identity());
    let lease = Settings::default().lease;
    assert!(View(shared.clone(), 99).lease(key.hash(), lease).await.unwrap());
    let start = Instant::now();
    assert_eq!(get(&fleet[0]).await, Ok(version("t1")));
    assert!(start.elapsed() >= lease && start.elapsed() < lease + Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn holders_that_die_one_after_the_other_make_everybody_wait_and_nobody_ask_without_the_lease() {
    let shared = Shared::default();
    let fleet = fleet(20, &shared);
    let (key, lease) = (Key::of(&identity()), Settings::default().lease);
    // The second one took it when the first one's had run out.
    assert!(View(shared.clone(), 99).lease(key.hash(), lease * 2 + Duration::from_secs(1)).await.unwrap());
    let all = join_all(fleet.iter().map(get)).await;
    assert!(all.iter().all(|token| *token == Ok(version("t1"))), "{all:?}");
    assert_eq!(fleet.iter().map(Cache::requests).sum::<u64>(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_makes_each_process_serve_itself() {
    let shared = Shared::default();
    shared.is_broken.store(true, Ordering::SeqCst);
    let fleet = fleet(3, &shared);
    let all = join_all(fleet.iter().map(get)).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(fleet.iter().map(Cache::requests).sum::<u64>(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_was_stored_elsewhere_or_by_others_is_not_believed() {
    let shared = Shared::default();
    let fleet = fleet(2, &shared);
    get(&fleet[0]).await.unwrap();
    let other = Identity { audience: "https://onestore.microsoft.com".to_owned(), ..identity() };
    let (from, to) = (Key::of(&identity()), Key::of(&other));
    let sealed = shared.tokens.lock().unwrap()[from.hash()].clone();
    shared.tokens.lock().unwrap().insert(to.hash().to_owned(), sealed);
    shared.tokens.lock().unwrap().insert(from.hash().to_owned(), b"noise \xff".to_vec());
    assert_eq!(fleet[1].token(&other, WITHIN).await.unwrap().version, version("t2"));
    assert_eq!(get(&fleet[1]).await, Ok(version("t3")));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_leaves_the_way_free() {
    let cache = cache([], MINUTE * 60);
    let impatient = cache.token(&identity(), Duration::ZERO).await;
    assert!(matches!(impatient, Err(SignInError::Transient { cause }) if cause.kind == Kind::Timeout));
    assert!(get(&cache).await.is_ok());
}
