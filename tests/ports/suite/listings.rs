//! Listings: read once for all who wait.

use std::time::Duration;

use longshore::{
    domain::{
        ids::ProductId,
        service::{PageLink, Product},
    },
    engine::ports::{Listing, Listings, Memory},
};

use crate::harness::{Harness, account, key};

fn product(id: u64, name: &str) -> Product {
    let mut fields = serde_json::Map::new();
    fields.insert("firmwareVersion".to_owned(), "1".into());
    Product {
        id: ProductId::new(id),
        shared_id: None,
        name: name.to_owned(),
        is_committed: Some(false),
        created: Some(jiff::Timestamp::UNIX_EPOCH),
        fields,
    }
}

const FIRST_PAGE: Listing = Listing::Ours { next: None };
const COMPLETE: Listing = Listing::Whole { is_complete: true };

fn link(text: &str) -> PageLink {
    PageLink(text.to_owned())
}

pub(crate) async fn a_listing_is_read_by_one_and_used_by_all<H: Harness>() {
    let harness = H::fresh().await;
    let (one, _) = harness.worker().await;
    let (two, _) = harness.worker().await;
    let now = one.load(&key("a")).await.unwrap().now;
    assert_eq!(one.join_listing(&account(), now, &key("a")).await.unwrap(), FIRST_PAGE);
    assert_eq!(two.join_listing(&account(), now, &key("b")).await.unwrap(), Listing::Read);
    assert!(
        !two.add_page(&account(), &key("b"), &[product(9, "NIC")], None).await.unwrap(),
        "the lease is not its own"
    );
    let page = [product(1, "NIC"), product(2, "GPU")];
    assert!(one.add_page(&account(), &key("a"), &page, Some(&link("page=2"))).await.unwrap());
    assert_eq!(two.join_listing(&account(), now, &key("b")).await.unwrap(), Listing::Read);
    assert!(two.listed(&account(), "NIC").await.unwrap().is_empty(), "not whole yet");
    // The second page repeats a product of the first: lists move while they are read.
    assert!(one.add_page(&account(), &key("a"), &[product(3, "NIC"), product(1, "NIC")], None).await.unwrap());
    assert_eq!(two.join_listing(&account(), now, &key("b")).await.unwrap(), COMPLETE);
    assert_eq!(two.listed(&account(), "NIC").await.unwrap(), [product(1, "NIC"), product(3, "NIC")]);
    assert!(two.listed(&account(), "nic").await.unwrap().is_empty());
    assert!(!one.add_page(&account(), &key("a"), &[], None).await.unwrap(), "it is over");
    harness.advance(Duration::from_mins(11)).await;
    assert_eq!(two.join_listing(&account(), now, &key("b")).await.unwrap(), FIRST_PAGE, "too old by now");
}

pub(crate) async fn another_goes_on_from_the_next_link<H: Harness>() {
    let harness = H::fresh().await;
    let (one, _) = harness.worker().await;
    let (two, _) = harness.worker().await;
    let now = one.load(&key("a")).await.unwrap().now;
    one.join_listing(&account(), now, &key("a")).await.unwrap();
    assert!(one.add_page(&account(), &key("a"), &[product(1, "NIC")], Some(&link("page=2"))).await.unwrap());
    one.leave_listing(&account(), &key("a")).await.unwrap();
    let second = Listing::Ours { next: Some(link("page=2")) };
    assert_eq!(two.join_listing(&account(), now, &key("b")).await.unwrap(), second);
    assert!(!one.add_page(&account(), &key("a"), &[], None).await.unwrap(), "it has let go");
    assert!(two.add_page(&account(), &key("b"), &[], Some(&link("page=3"))).await.unwrap());
    // The reader dies: its lease runs out at the latest. The listing may be too old by then, and begin anew.
    harness.kill(two).await;
    harness.advance(Duration::from_mins(40)).await;
    let Listing::Ours { next } = one.join_listing(&account(), now, &key("a")).await.unwrap() else {
        panic!("the dead one's lease stands");
    };
    if next.is_none() {
        assert!(one.add_page(&account(), &key("a"), &[product(1, "NIC")], Some(&link("page=2"))).await.unwrap());
    }
    assert!(one.add_page(&account(), &key("a"), &[product(2, "NIC")], None).await.unwrap());
    assert_eq!(one.listed(&account(), "NIC").await.unwrap(), [product(1, "NIC"), product(2, "NIC")]);
}

pub(crate) async fn a_page_may_take_as_long_as_its_call_and_its_waits<H: Harness>() {
    let harness = H::fresh().await;
    let (one, _) = harness.worker().await;
    let (two, _) = harness.worker().await;
    let now = one.load(&key("a")).await.unwrap().now;
    assert_eq!(one.join_listing(&account(), now, &key("a")).await.unwrap(), FIRST_PAGE);
    harness.advance(Duration::from_mins(20)).await;
    assert_eq!(two.join_listing(&account(), now, &key("b")).await.unwrap(), Listing::Read);
    assert!(one.add_page(&account(), &key("a"), &[product(1, "NIC")], None).await.unwrap());
}

pub(crate) async fn a_listing_that_began_too_early_is_read_anew_and_the_old_one_stays_readable<H: Harness>() {
    let harness = H::fresh().await;
    let (one, _) = harness.worker().await;
    let (two, _) = harness.worker().await;
    let early = one.load(&key("a")).await.unwrap().now;
    one.join_listing(&account(), early, &key("a")).await.unwrap();
    assert!(one.add_page(&account(), &key("a"), &[product(1, "NIC")], None).await.unwrap());
    harness.advance(Duration::from_mins(1)).await;
    let later = early.after(Duration::from_secs(30));
    assert_eq!(two.join_listing(&account(), later, &key("b")).await.unwrap(), FIRST_PAGE);
    assert_eq!(one.join_listing(&account(), early, &key("a")).await.unwrap(), COMPLETE);
    assert!(two.add_page(&account(), &key("b"), &[product(2, "NIC")], Some(&link("page=2"))).await.unwrap());
    assert_eq!(one.listed(&account(), "NIC").await.unwrap(), [product(1, "NIC")]);
    assert!(two.add_page(&account(), &key("b"), &[], None).await.unwrap());
    assert_eq!(one.join_listing(&account(), later, &key("a")).await.unwrap(), COMPLETE);
    assert_eq!(one.listed(&account(), "NIC").await.unwrap(), [product(2, "NIC")]);
}

pub(crate) async fn a_page_that_fails_five_times_makes_the_listing_incomplete<H: Harness>() {
    let harness = H::fresh().await;
    let (home, _) = harness.worker().await;
    let now = home.load(&key("a")).await.unwrap().now;
    home.join_listing(&account(), now, &key("a")).await.unwrap();
    assert!(home.add_page(&account(), &key("a"), &[product(1, "NIC")], Some(&link("page=2"))).await.unwrap());
    home.page_failed(&account(), &key("b")).await.unwrap();
    for failure in 1..=5 {
        let listing = home.join_listing(&account(), now, &key("a")).await.unwrap();
        assert_eq!(listing, Listing::Ours { next: Some(link("page=2")) }, "failure {failure}");
        home.page_failed(&account(), &key("a")).await.unwrap();
    }
    let listing = home.join_listing(&account(), now, &key("b")).await.unwrap();
    assert_eq!(listing, Listing::Whole { is_complete: false });
    assert_eq!(home.listed(&account(), "NIC").await.unwrap(), [product(1, "NIC")]);
}
