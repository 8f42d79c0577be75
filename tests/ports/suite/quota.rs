//! The accounts' rates.

use std::time::Duration;

use longshore::{
    domain::{ids::AccountName, quota::Admission, step::QuotaClass, step::Step},
    engine::ports::{Memory, Quota},
};

use crate::harness::{Harness, RATE, account, key, ticket};

pub(crate) async fn all_workers_together_stay_within_the_rate<H: Harness>() {
    let harness = H::fresh().await;
    let workers = [harness.worker().await.0, harness.worker().await.0, harness.worker().await.0];
    let mut granted = Vec::new();
    for n in 0..600 {
        let home = &workers[n % workers.len()];
        let class = QuotaClass::ALL[n % QuotaClass::ALL.len()];
        if let Admission::Granted { at } = home.permit(&account(), class, 0, 0.0).await.unwrap() {
            granted.push(at.as_millis());
        }
        harness.advance(Duration::from_millis(40)).await;
    }
    granted.sort_unstable();
    assert!(granted.len() > 100, "{}", granted.len());
    for (n, from) in granted.iter().enumerate() {
        let within = granted[n..].iter().take_while(|at| **at < from + 10_000).count();
        let within = u32::try_from(within).unwrap();
        assert!(f64::from(within) <= 10.0 * RATE / 60.0 * 1.01 + 1.0, "{within} permits in 10 s");
    }
    assert!((workers[0].polls_per_minute(&account()) - RATE / 2.0).abs() < 1e-9);
}

pub(crate) async fn a_pause_told_to_one_holds_for_all<H: Harness>() {
    let harness = H::fresh().await;
    let (one, _) = harness.worker().await;
    let (two, _) = harness.worker().await;
    let before = one.load(&key("a")).await.unwrap().now;
    let until = one.throttled(&account(), Duration::from_secs(30)).await.unwrap();
    assert!(until >= before.after(Duration::from_secs(30)));
    assert_eq!(two.paused_until(&account()).await.unwrap(), until);
    let refused = two.permit(&account(), QuotaClass::Write, 0, 0.0).await.unwrap();
    assert!(matches!(refused, Admission::Refused { until: again, by_gate: true } if again >= until), "{refused:?}");
    let other = AccountName::parse("fabrikam").unwrap();
    assert!(two.paused_until(&other).await.unwrap() < before);
    let granted = two.permit(&other, QuotaClass::Write, 0, 0.0).await.unwrap();
    assert!(matches!(granted, Admission::Granted { .. }));
    harness.advance(Duration::from_secs(31)).await;
    let granted = two.permit(&account(), QuotaClass::Write, 1, 0.0).await.unwrap();
    assert!(matches!(granted, Admission::Granted { at } if at >= until), "{granted:?}");
}

pub(crate) async fn five_failures_close_the_gate_for_all_until_one_call_succeeds<H: Harness>() {
    let harness = H::fresh().await;
    let (one, _) = harness.worker().await;
    let (two, _) = harness.worker().await;
    for n in 0..4 {
        let home = if n % 2 == 0 { &one } else { &two };
        assert_eq!(home.failed(&account()).await.unwrap(), None);
    }
    let until = one.failed(&account()).await.unwrap().unwrap();
    let refused = two.permit(&account(), QuotaClass::Poll, 0, 0.0).await.unwrap();
    assert!(matches!(refused, Admission::Refused { until: again, by_gate: true } if again >= until), "{refused:?}");
    two.succeeded(&account()).await.unwrap();
    let granted = one.permit(&account(), QuotaClass::Poll, 1, 0.0).await.unwrap();
    assert!(matches!(granted, Admission::Granted { .. }), "{granted:?}");
    assert_eq!(one.failed(&account()).await.unwrap(), None);
}

pub(crate) async fn polls_in_flight_are_counted_by_account<H: Harness>() {
    let harness = H::fresh().await;
    let (home, _) = harness.worker().await;
    assert_eq!(home.polls_in_flight(&account()).await.unwrap(), 0);
    for n in 0..3 {
        harness.put(&ticket(&format!("job-{n}")).at_step(Step::Poll)).await;
    }
    harness.put(&ticket("another")).await;
    assert_eq!(home.polls_in_flight(&account()).await.unwrap(), 3);
    assert_eq!(home.polls_in_flight(&AccountName::parse("fabrikam").unwrap()).await.unwrap(), 0);
}
