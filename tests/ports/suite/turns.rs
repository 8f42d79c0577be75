//! Turns and owners.

use std::time::Duration;

use longshore::{
    domain::{
        ids::{AccountName, ProductId},
        time::Moment,
    },
    engine::ports::{Memory, Turn, TurnKey, Turns},
};

use crate::harness::{Harness, account, key};

const FREE: Turn = Turn::Ours { begun_at: None };

pub(crate) async fn a_turn_is_for_one_job_until_it_is_given_back<H: Harness>() {
    let harness = H::fresh().await;
    let (one, _) = harness.worker().await;
    let (two, _) = harness.worker().await;
    let name = TurnKey::Name(account(), "NIC, \"2nd\" édition".to_owned());
    let product = TurnKey::Product(account(), ProductId::new(14_300_000_000_000_001));
    let stranger = TurnKey::Name(AccountName::parse("fabrikam").unwrap(), "NIC, \"2nd\" édition".to_owned());
    assert_eq!(one.take_turn(&name, &key("a")).await.unwrap(), FREE);
    assert_eq!(two.take_turn(&name, &key("b")).await.unwrap(), Turn::Held);
    assert_eq!(two.take_turn(&name, &key("a")).await.unwrap(), FREE);
    for other in [&product, &stranger] {
        assert_eq!(two.take_turn(other, &key("b")).await.unwrap(), FREE);
    }
    two.end_turn(&name, &key("b"), None).await.unwrap();
    assert_eq!(two.take_turn(&name, &key("b")).await.unwrap(), Turn::Held);
    one.end_turn(&name, &key("a"), None).await.unwrap();
    assert_eq!(two.take_turn(&name, &key("b")).await.unwrap(), FREE);
    assert_eq!(one.take_turn(&name, &key("a")).await.unwrap(), Turn::Held);
}

pub(crate) async fn a_stamp_stays_with_its_turn_and_proves_until_another_has_had_it<H: Harness>() {
    let harness = H::fresh().await;
    let (home, _) = harness.worker().await;
    let name = TurnKey::Name(account(), "NIC".to_owned());
    let now = home.load(&key("a")).await.unwrap().now;
    assert!(!home.stamp_turn(&name, &key("a"), now).await.unwrap(), "nobody has taken it");
    home.take_turn(&name, &key("a")).await.unwrap();
    assert!(!home.stamp_turn(&name, &key("b"), now).await.unwrap(), "it is another's");
    assert!(home.stamp_turn(&name, &key("a"), now).await.unwrap());
    let stamped = Turn::Ours { begun_at: Some(now) };
    assert_eq!(home.take_turn(&name, &key("a")).await.unwrap(), stamped);
    harness.advance(Duration::from_mins(19)).await;
    assert_eq!(home.take_turn(&name, &key("b")).await.unwrap(), Turn::Held);
    assert_eq!(home.take_turn(&name, &key("a")).await.unwrap(), stamped);
    harness.advance(Duration::from_mins(2)).await;
    assert!(!home.stamp_turn(&name, &key("a"), Moment::default()).await.unwrap(), "it is over");
    assert_eq!(home.take_turn(&name, &key("a")).await.unwrap(), stamped, "nobody else has had it meanwhile");
    assert_eq!(home.take_turn(&name, &key("b")).await.unwrap(), Turn::Held, "it is a's again");
    harness.advance(Duration::from_mins(21)).await;
    assert_eq!(home.take_turn(&name, &key("b")).await.unwrap(), FREE);
    harness.advance(Duration::from_mins(21)).await;
    assert_eq!(home.take_turn(&name, &key("a")).await.unwrap(), FREE, "b may have created in between");
}

pub(crate) async fn who_does_not_know_of_a_stamp_does_not_give_its_turn_back<H: Harness>() {
    let harness = H::fresh().await;
    let (frozen, _) = harness.worker().await;
    let (present, _) = harness.worker().await;
    let name = TurnKey::Name(account(), "NIC".to_owned());
    // A worker takes the turn, stands still, and loses its claim; the job's next claim takes and stamps the turn.
    assert_eq!(frozen.take_turn(&name, &key("a")).await.unwrap(), FREE);
    assert_eq!(present.take_turn(&name, &key("a")).await.unwrap(), FREE);
    let first = present.load(&key("a")).await.unwrap().now;
    assert!(present.stamp_turn(&name, &key("a"), first).await.unwrap());
    // It wakes, and gives back what it took.
    frozen.end_turn(&name, &key("a"), None).await.unwrap();
    assert_eq!(present.take_turn(&name, &key("b")).await.unwrap(), Turn::Held, "the create is under way");
    // The same with an older stamp of its own.
    let second = first.after(Duration::from_millis(1));
    assert!(present.stamp_turn(&name, &key("a"), second).await.unwrap());
    frozen.end_turn(&name, &key("a"), Some(first)).await.unwrap();
    assert_eq!(frozen.take_turn(&name, &key("a")).await.unwrap(), Turn::Ours { begun_at: Some(second) });
    present.end_turn(&name, &key("a"), Some(second)).await.unwrap();
    assert_eq!(present.take_turn(&name, &key("b")).await.unwrap(), FREE);
}

pub(crate) async fn the_first_fact_about_an_owner_stays<H: Harness>() {
    let harness = H::fresh().await;
    let (one, _) = harness.worker().await;
    let (two, _) = harness.worker().await;
    let product = ProductId::new(u64::MAX);
    assert_eq!(one.owner(&account(), product).await.unwrap(), None);
    one.own(&account(), product, &key("a")).await.unwrap();
    two.own(&account(), product, &key("b")).await.unwrap();
    one.own(&account(), product, &key("a")).await.unwrap();
    assert_eq!(two.owner(&account(), product).await.unwrap(), Some(key("a")));
    assert_eq!(two.owner(&account(), ProductId::new(1)).await.unwrap(), None);
}
