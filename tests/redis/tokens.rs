//! Tokens over this memory: one request for all processes, and one for each while it does not answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use longshore::{
    app::identity::Shelf,
    domain::time::Moment,
    identity::{Cache, Credential, EndpointVersion, Identity, SignIn, SignInError, SystemClock, Token, TokenVersion},
    seal::Keyring,
};
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::{
    harness::{in_time, redis, store},
    servers::{self, Redis},
};

/// Counts what it is asked.
#[derive(Clone, Default)]
struct Endpoint(Arc<AtomicUsize>);

impl SignIn for Endpoint {
    async fn sign_in(&self, _: &Identity, now: Moment) -> Result<Token, SignInError> {
        let number = self.0.fetch_add(1, Ordering::SeqCst);
        let secret = SecretString::from(format!("token {number}"));
        let version = TokenVersion::of(&secret);
        Ok(Token { secret, expires_at: now.after(Duration::from_hours(1)), renew_at: None, version })
    }
}

fn identity() -> Identity {
    Identity {
        authority: "https://login.example.com".parse().unwrap(),
        tenant: "11111111-2222-4333-8444-555555555555".to_owned(),
        version: EndpointVersion::V2,
        client_id: "66666666-7777-4888-8999-aaaaaaaaaaaa".to_owned(),
        credential: Credential::Secret("not a secret of anybody".into()),
        audience: "https://manage.devcenter.microsoft.com".to_owned(),
    }
}

fn process(redis: &Redis, endpoint: &Endpoint) -> Cache<Shelf, Endpoint> {
    let keyring = Keyring::new([Zeroizing::new([7; 32])]).unwrap();
    Cache::new(Shelf::fleet(store(redis)), endpoint.clone(), SystemClock::default(), keyring)
}

const WITHIN: Duration = Duration::from_secs(20);

#[tokio::test]
async fn one_request_serves_all_processes_and_what_is_stored_is_sealed() {
    if !servers::is_redis_installed() {
        return;
    }
    let (redis, endpoint) = (redis(), Endpoint::default());
    let processes: Vec<_> = (0..8).map(|_| process(&redis, &endpoint)).collect();
    let identity = identity();
    let tokens = futures_util::future::join_all(processes.iter().map(|one| one.token(&identity, WITHIN))).await;
    let versions: Vec<_> = tokens.into_iter().map(|token| token.unwrap().version).collect();
    assert!(versions.windows(2).all(|pair| pair[0] == pair[1]), "{versions:?}");
    assert_eq!(endpoint.0.load(Ordering::SeqCst), 1);
    let keys: Vec<_> = redis.keys().into_iter().filter(|key| key.contains(":tok:")).collect();
    assert_eq!(keys.len(), 1, "the lease is over: {keys:?}");
    assert!(!redis.cli(&["GET", &keys[0]]).contains("token 0"));
}

#[tokio::test]
async fn without_a_memory_each_process_serves_itself() {
    if !servers::is_redis_installed() {
        return;
    }
    let (mut redis, endpoint) = (redis(), Endpoint::default());
    let [one, two] = [0, 1].map(|_| process(&redis, &endpoint));
    let identity = identity();
    let before = one.token(&identity, WITHIN).await.unwrap();
    redis.kill();
    // What it holds goes on to serve; a refused one is renewed, by each for itself, and one request only.
    assert_eq!(one.token(&identity, WITHIN).await.unwrap().version, before.version);
    let renewed = in_time(one.renew(&identity, &before.version, WITHIN)).await.unwrap();
    assert_ne!(renewed.version, before.version);
    in_time(two.token(&identity, WITHIN)).await.unwrap();
    for process in [&one, &two] {
        in_time(process.token(&identity, WITHIN)).await.unwrap();
    }
    assert_eq!(endpoint.0.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_memory_that_stands_still_delays_a_first_token_and_never_one_that_is_held() {
    if !servers::is_redis_installed() {
        return;
    }
    let (redis, endpoint) = (redis(), Endpoint::default());
    let [one, two] = [0, 1].map(|_| process(&redis, &endpoint));
    let identity = identity();
    one.token(&identity, WITHIN).await.unwrap();
    redis.freeze();
    tokio::time::timeout(Duration::from_millis(300), one.token(&identity, WITHIN)).await.unwrap().unwrap();
    tokio::time::timeout(WITHIN, two.token(&identity, WITHIN)).await.unwrap().unwrap();
    assert_eq!(endpoint.0.load(Ordering::SeqCst), 2);
    redis.thaw();
}
