//! `quota.lua` and `domain/quota.rs` are the same rules: the same calls at the same instants get the same answers and leave
//! the same state.
//!
//! The script says which instant it saw; the pure bucket is asked at that one. After each call the states are compared and
//! the pure one is set to what the server holds, so that roundings never add up. Allowed are 1 ms in the end of a refused
//! ticket's wait, 1 us in an arrival time, and a part in 10^9 of a call a minute in the learned
//! rate.

use std::{collections::BTreeMap, time::Duration};

use longshore::{
    domain::{
        ids::Sha256,
        quota::{Admission, Bucket, Limits},
        step::QuotaClass,
        time::Moment,
    },
    redis::{Options, Scope, Store},
};
use serde_json::{Value, json};

use crate::{
    chance::Chance,
    harness::{account, at, options, redis, shifted},
    servers,
};

const ROUNDING_MS: i64 = 1;
const ROUNDING_US: i64 = 1;

/// Limits of any account, and some that nobody would set.
fn limits(chance: &mut Chance) -> Limits {
    let seconds =
        |chance: &mut Chance, low: u64, high: u64| Duration::from_millis(chance.between(low * 1_000, high * 1_000));
    let wait_min = seconds(chance, 0, 4);
    let close_for_min = seconds(chance, 1, 40);
    Limits {
        calls_per_minute: [0.3, 6.0, 20.0, 20.0, 600.0, 1_200.0][usize::try_from(chance.below(6)).unwrap()],
        download_share: 0.1 + 0.9 * chance.unit(),
        poll_share: 0.1 + 0.9 * chance.unit(),
        ahead: Duration::from_millis([0, 500, 2_000][usize::try_from(chance.below(3)).unwrap()]),
        wait_min,
        wait_max: wait_min + seconds(chance, 0, 900),
        waiting_memory: seconds(chance, 1, 900),
        floor_per_minute: [0.5, 1.0, 10.0][usize::try_from(chance.below(3)).unwrap()],
        slow_down: 0.25 + 0.5 * chance.unit(),
        recovery_per_minute: 0.01 + 0.1 * chance.unit(),
        failures_to_close: u32::try_from(chance.between(1, 6)).unwrap(),
        close_for_min,
        close_for_max: close_for_min + seconds(chance, 0, 500),
    }
}

/// What the server holds, in the words of the pure bucket.
fn as_bucket(stored: &BTreeMap<String, f64>) -> Value {
    let number = |name: &str| stored.get(name).copied().unwrap_or(0.0);
    #[expect(clippy::cast_possible_truncation, reason = "whole numbers of the script")]
    let whole = |name: &str| {
        let number = number(name);
        assert!(number.fract() == 0.0, "{name} is {number}");
        number as i64
    };
    json!({
        "common_us": whole("common"),
        "class_us": [whole("class0"), whole("class1"), whole("class2")],
        "waiting": [whole("waiting0"), whole("waiting1"), whole("waiting2")],
        "refused_at": [whole("refused0"), whole("refused1"), whole("refused2")],
        "pause_until": whole("pause"),
        "learned": stored.get("learned"),
        "learned_at": whole("learned_at"),
        "failures": whole("failures"),
        "closed_until": whole("closed"),
        "closed_for_ms": whole("closed_for"),
        "looks_waiting": whole("waiting3"),
        "look_refused_at": whole("refused3"),
        "look_at": Some(whole("look_at")).filter(|at| *at != 0),
        "was_look": whole("was_look") == 1,
    })
}

/// What may differ by rounding, and by how much.
fn rounding(path: &str) -> f64 {
    let millis = i32::try_from(ROUNDING_MS).unwrap();
    let micros = i32::try_from(ROUNDING_US).unwrap();
    match path.split('/').nth(1).unwrap() {
        "common_us" | "class_us" => f64::from(micros),
        "look_at" => f64::from(millis),
        "learned" => 1e-9,
        _ => 0.0,
    }
}

fn differences(server: &Value, pure: &Value, path: &str, found: &mut Vec<String>) {
    match (server, pure) {
        (Value::Object(ours), Value::Object(theirs)) => {
            assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
            for (name, value) in ours {
                differences(value, &theirs[name], &format!("{path}/{name}"), found);
            }
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            for (n, (one, other)) in ours.iter().zip(theirs).enumerate() {
                differences(one, other, &format!("{path}/{n}"), found);
            }
        }
        (Value::Number(one), Value::Number(other)) => {
            let is_near = (one.as_f64().unwrap() - other.as_f64().unwrap()).abs() <= rounding(path);
            if !is_near {
                found.push(format!("{path}: the server {one}, the pure one {other}"));
            }
        }
        (one, other) if one == other => {}
        (one, other) => found.push(format!("{path}: the server {one}, the pure one {other}")),
    }
}

fn is_near(server: Moment, pure: Moment) -> bool {
    (server.as_millis() - pure.as_millis()).abs() <= ROUNDING_MS
}

fn is_same(server: Admission, pure: Admission) -> bool {
    match (server, pure) {
        (Admission::Granted { at: one }, Admission::Granted { at: other }) => one == other,
        (
            Admission::Refused { until: one, by_gate: gate },
            Admission::Refused { until: other, by_gate: other_gate },
        ) => gate == other_gate && is_near(one, other),
        (Admission::Granted { .. }, Admission::Refused { .. })
        | (Admission::Refused { .. }, Admission::Granted { .. }) => false,
    }
}

/// How often each thing happened, so that the test shows that it saw it.
#[derive(Debug, Default)]
struct Seen {
    granted: u32,
    waited: u32,
    gated: u32,
    closed: u32,
    looks_refused: u32,
    moved_back: u32,
}

/// One sequence of calls, with the clock moved between them.
async fn run(
    seed: u64,
    calls: u32,
    redis: &servers::Redis,
    looker: &mut redis::aio::MultiplexedConnection,
    tally: &mut Seen,
) {
    let mut chance = Chance::new(seed, 0);
    let limits = limits(&mut chance);
    let scope = Scope { name: format!("scope {seed}"), limits };
    let (_, shift) = shifted(redis);
    let options = Options { accounts: BTreeMap::from([(account(), scope.clone())]), shift: shift.clone(), ..options() };
    let store = Store::new(&at(redis.url()), options).unwrap();
    let key = format!("longshore:rl:{}", Sha256::of(scope.name.as_bytes()));
    let (mut bucket, account) = (Bucket::default(), account());
    let mut refusals = 0;
    for call in 0..calls {
        let span = match chance.below(20) {
            0 => chance.between(0, 1_200_000),
            1..=3 => chance.between(0, 60_000),
            4 => {
                shift.step_back(Duration::from_millis(chance.between(0, 120_000)));
                tally.moved_back += 1;
                0
            }
            5..=9 => 0,
            _ => chance.between(0, 4_000),
        };
        shift.advance(Duration::from_millis(span));
        let told = match chance.below(40) {
            0..=30 => {
                let class = QuotaClass::ALL[usize::try_from(chance.below(4)).unwrap()];
                let jitter = if chance.happens(0.1) { 0.0 } else { chance.unit() };
                let told = store.ask_permit(&account, class, refusals, jitter).await.unwrap();
                let pure = bucket.admit(told.now, class, refusals, &limits, jitter);
                assert!(
                    is_same(told.answer, pure),
                    "seed {seed}, call {call} ({class:?}, {refusals} refusals) at {:?}: the server {:?}, the pure one \
                     {pure:?}; {limits:?}",
                    told.now,
                    told.answer,
                );
                match told.answer {
                    Admission::Granted { .. } => tally.granted += 1,
                    Admission::Refused { by_gate: true, .. } => tally.gated += 1,
                    Admission::Refused { by_gate: false, .. } => tally.waited += 1,
                }
                if class == QuotaClass::Look && matches!(told.answer, Admission::Refused { by_gate: false, .. }) {
                    tally.looks_refused += 1;
                }
                let again = matches!(told.answer, Admission::Refused { .. }) && chance.happens(0.7);
                refusals = if again { refusals + 1 } else { 0 };
                told.now
            }
            31 => {
                let pause = Duration::from_millis(chance.between(0, 90_000));
                let told = store.tell_throttled(&account, pause).await.unwrap();
                bucket.throttled(told.now, told.now.after(pause), &limits);
                assert_eq!(told.answer, bucket.paused_until(), "seed {seed}, call {call}: throttled");
                told.now
            }
            32..=34 => {
                let told = store.tell_failed(&account).await.unwrap();
                let pure = bucket.failed(told.now, &limits);
                assert_eq!(told.answer, pure, "seed {seed}, call {call}: failed");
                tally.closed += u32::from(pure.is_some());
                told.now
            }
            35 => {
                let told = store.tell_succeeded(&account).await.unwrap();
                bucket.succeeded();
                told.now
            }
            _ => {
                let told = store.ask_pause(&account).await.unwrap();
                assert_eq!(told.answer, bucket.paused_until(), "seed {seed}, call {call}: paused");
                told.now
            }
        };
        let stored: BTreeMap<String, f64> = redis::cmd("HGETALL").arg(&key).query_async(looker).await.unwrap();
        let (server, pure) = (as_bucket(&stored), serde_json::to_value(&bucket).unwrap());
        let mut found = Vec::new();
        differences(&server, &pure, "", &mut found);
        assert!(found.is_empty(), "seed {seed}, call {call} at {told:?}: {found:#?}\n{limits:?}");
        bucket = serde_json::from_value(server).unwrap();
    }
}

#[tokio::test]
async fn the_script_decides_as_the_pure_bucket_does() {
    if !servers::is_redis_installed() {
        return;
    }
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (first, seeds) = (number("FIRST", 1), number("SEEDS", 60));
    let redis = redis();
    let client = redis::Client::open(redis.url()).unwrap();
    let mut looker = client.get_multiplexed_async_connection().await.unwrap();
    let mut seen = Seen::default();
    for seed in first..first + seeds {
        run(seed, 300, &redis, &mut looker, &mut seen).await;
    }
    let counts = [seen.granted, seen.waited, seen.gated, seen.closed, seen.looks_refused, seen.moved_back];
    assert!(counts.into_iter().all(|count| count >= 100), "{seen:?}");
}
