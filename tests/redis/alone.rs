//! The accounts' rates while the memory does not answer: every process serves itself with its share, and no pause is
//! forgotten.

use std::time::Duration;

use longshore::{
    clock::{self, Shift},
    domain::{quota::Admission, step::QuotaClass, time::Moment},
    engine::ports::Quota as _,
    fleet::Fleet,
    rabbitmq::{self, Rabbit},
    redis::{Options, Store},
};

use crate::{
    harness::{account, at, in_time, options, redis, scope},
    servers::{self, Redis},
};

/// Calls a minute of the account, and processes.
const RATE: f64 = 600.0;
const PROCESSES: u32 = 10;

/// One process of the fleet; its broker is never asked.
fn process(redis: &Redis, shift: &Shift) -> Fleet {
    let accounts = [(account(), scope(RATE))].into();
    let options = Options { accounts, max_workers: PROCESSES, shift: shift.clone(), ..options() };
    Fleet::new(Rabbit::new(rabbitmq::Options::default()), Store::new(&at(redis.url()), options).unwrap())
}

async fn ask(fleet: &Fleet) -> Admission {
    in_time(fleet.permit(&account(), QuotaClass::Write, 0, 0.0)).await.unwrap()
}

/// The memory's clock, as far as this test can tell.
fn now(shift: &Shift) -> Moment {
    Moment::from_millis(clock::moment().as_millis() + shift.millis())
}

#[tokio::test]
async fn without_a_memory_all_processes_together_stay_within_the_rate() {
    if !servers::is_redis_installed() {
        return;
    }
    let (mut redis, shift) = (redis(), Shift::default());
    let fleet: Vec<_> = (0..PROCESSES).map(|_| process(&redis, &shift)).collect();
    for one in &fleet {
        ask(one).await;
    }
    redis.kill();
    let mut granted = Vec::new();
    for _ in 0..3_000 {
        for one in &fleet {
            if let Admission::Granted { at } = ask(one).await {
                granted.push(at.as_millis());
            }
        }
        shift.advance(Duration::from_millis(40));
    }
    granted.sort_unstable();
    for (n, from) in granted.iter().enumerate() {
        let within = granted[n..].iter().take_while(|at| **at < from + 60_000).count();
        let within = f64::from(u32::try_from(within).unwrap());
        assert!(within <= RATE * 1.01 + f64::from(PROCESSES), "{within} permits in 60 s");
    }
    // Two minutes of it: nearly all of the rate is used, too.
    assert!(granted.len() > 1_000, "{}", granted.len());
}

#[tokio::test]
async fn a_pause_that_was_seen_holds_when_the_memory_is_gone() {
    if !servers::is_redis_installed() {
        return;
    }
    let (mut redis, shift) = (redis(), Shift::default());
    let [told, asked, mute] = [0, 1, 2].map(|_| process(&redis, &shift));
    ask(&mute).await;
    let until = told.throttled(&account(), Duration::from_secs(600)).await.unwrap();
    // The second one has seen the pause by asking, the third one never has.
    assert!(matches!(ask(&asked).await, Admission::Refused { by_gate: true, .. }));
    redis.kill();
    for one in [&told, &asked] {
        let refused = ask(one).await;
        assert!(matches!(refused, Admission::Refused { until: again, by_gate: true } if again >= until), "{refused:?}");
        assert!(one.paused_until(&account()).await.unwrap() >= until);
    }
    assert!(!matches!(ask(&mute).await, Admission::Refused { by_gate: true, .. }));
    // One that is told while nobody else can hear it, and one that is told of failures.
    let longer = told.throttled(&account(), Duration::from_secs(900)).await.unwrap();
    assert!(longer > until);
    for n in 1..=5 {
        assert_eq!(mute.failed(&account()).await.unwrap().is_some(), n == 5);
    }
    assert!(matches!(ask(&mute).await, Admission::Refused { by_gate: true, .. }));
    mute.succeeded(&account()).await.unwrap();
    assert!(!matches!(ask(&mute).await, Admission::Refused { by_gate: true, .. }));
    shift.advance(Duration::from_secs(601));
    assert!(!matches!(ask(&asked).await, Admission::Refused { by_gate: true, .. }));
    assert!(matches!(ask(&told).await, Admission::Refused { by_gate: true, .. }));
}

#[tokio::test]
async fn a_memory_that_comes_back_shares_again_and_learns_of_the_pause() {
    if !servers::is_redis_installed() {
        return;
    }
    let (mut redis, shift) = (redis(), Shift::default());
    let [told, other] = [0, 1].map(|_| process(&redis, &shift));
    ask(&told).await;
    redis.kill();
    let until = in_time(told.throttled(&account(), Duration::from_secs(600))).await.unwrap();
    redis.start_again();
    // A silent memory is asked again after a while; the first permit there brings it the news.
    let mut heard = Moment::default();
    let begun = longshore::clock::monotonic();
    while begun.elapsed() < Duration::from_secs(60) {
        assert!(matches!(ask(&told).await, Admission::Refused { by_gate: true, .. }));
        heard = other.paused_until(&account()).await.unwrap();
        if heard > now(&shift) {
            break;
        }
        tokio::task::yield_now().await;
    }
    // The two clocks of one machine differ by what a round trip takes.
    assert!(heard.as_millis().abs_diff(until.as_millis()) < 2_000, "{heard:?} {until:?}");
    assert!(matches!(ask(&other).await, Admission::Refused { by_gate: true, .. }));
}

#[tokio::test]
async fn a_pause_outlives_the_memory_that_forgot_it() {
    if !servers::is_redis_installed() {
        return;
    }
    let (redis, shift) = (redis(), Shift::default());
    let [told, other] = [0, 1].map(|_| process(&redis, &shift));
    let until = told.throttled(&account(), Duration::from_secs(600)).await.unwrap();
    redis.flush();
    assert!(told.paused_until(&account()).await.unwrap() >= until);
    assert!(other.paused_until(&account()).await.unwrap() < now(&shift));
    let refused = ask(&told).await;
    assert!(matches!(refused, Admission::Refused { until: again, by_gate: true } if again >= until), "{refused:?}");
    // Told again as a span, it ends later by what a round trip takes.
    let heard = other.paused_until(&account()).await.unwrap();
    assert!(heard.as_millis().abs_diff(until.as_millis()) < 2_000, "{heard:?} {until:?}");
}

#[tokio::test]
async fn a_memory_that_stands_still_delays_one_caller_at_a_time() {
    if !servers::is_redis_installed() {
        return;
    }
    let (redis, shift) = (redis(), Shift::default());
    let fleet = process(&redis, &shift);
    ask(&fleet).await;
    redis.freeze();
    ask(&fleet).await;
    // Known to be silent, it is not asked: the answer is there at once.
    for _ in 0..10 {
        let at_once = Duration::from_millis(300);
        tokio::time::timeout(at_once, fleet.paused_until(&account())).await.unwrap().unwrap();
        tokio::time::timeout(at_once, fleet.polls_in_flight(&account())).await.unwrap().unwrap();
    }
    redis.thaw();
}

#[tokio::test]
async fn a_pause_is_kept_to_its_end_however_long_it_is() {
    if !servers::is_redis_installed() {
        return;
    }
    let (redis, shift) = (redis(), Shift::default());
    let days = Duration::from_hours(7 * 24);
    process(&redis, &shift).throttled(&account(), days).await.unwrap();
    let keys = redis.keys();
    let key = keys.iter().find(|key| key.contains(":rl:")).unwrap();
    let left = Duration::from_millis(redis.cli(&["PTTL", key]).parse().unwrap());
    assert!(left > days && left < days * 2, "{left:?}");
    // One that nobody can mean is cut, and still a pause.
    let until = process(&redis, &shift).throttled(&account(), Duration::MAX).await.unwrap();
    assert!(until > now(&shift).after(days));
    assert_eq!(redis.endless_keys(), Vec::<String>::new());
}
