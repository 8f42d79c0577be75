//! Every call of the memory once, in an order that a job could make them in.

use std::time::Duration;

use longshore::{
    clock,
    domain::{
        claim::{self, Loaded, Policy},
        event::End,
        ids::ProductId,
        quota::Admission,
        service::{PageLink, Product},
        step::QuotaClass,
        ticket::StepResult,
        time::Moment,
    },
    engine::ports::{Listing, Listings as _, Memory as _, Quota as _, Swapped, Turn, TurnKey, Turns as _, Unavailable},
    redis::Store,
};

use crate::harness::{ME, account, claimed, key, ticket};

/// How many calls there are.
pub(crate) const CALLS: usize = 27;

/// One walk through all calls. Whatever a call brings is taken as it is: the walk has no expectations.
#[derive(Default)]
pub(crate) struct Walk {
    /// What the last `load` or refused `swap` brought.
    pub loaded: Option<Loaded<StepResult, End>>,
    /// Swaps that were refused.
    pub refused: u32,
    /// Turns that were lost.
    pub lost_turns: u32,
}

pub(crate) fn product(id: u64) -> Product {
    Product {
        id: ProductId::new(id),
        shared_id: None,
        name: "nic".to_owned(),
        is_committed: None,
        created: None,
        fields: serde_json::Map::new(),
    }
}

pub(crate) fn turn() -> TurnKey {
    TurnKey::Name(account(), "nic".to_owned())
}

impl Walk {
    async fn load(&mut self, store: &Store) -> Result<(), Unavailable> {
        self.loaded = Some(store.load(&key("walk")).await?);
        Ok(())
    }

    /// Decides on what was loaded, and writes it.
    async fn swap(&mut self, store: &Store, begins: bool) -> Result<(), Unavailable> {
        let Some(loaded) = &self.loaded else { return Ok(()) };
        let record =
            if begins { claim::begin(loaded, ME, &Policy::default()).ok() } else { claimed(loaded, &ticket("walk")) };
        let Some(record) = record else { return Ok(()) };
        let swapped = store.swap(&key("walk"), loaded.birth.epoch, loaded.version, &record).await?;
        if let Swapped::Refused(present) = swapped {
            self.refused += 1;
            self.loaded = Some(*present);
        }
        Ok(())
    }

    /// The call of this number: one only, so that anything can happen between any two.
    pub(crate) async fn call(&mut self, store: &Store, number: usize) -> Result<(), Unavailable> {
        let (job, other, account) = (key("walk"), key("other"), account());
        let link = PageLink("https://example.com/next".to_owned());
        match number {
            0 | 4 => self.load(store).await?,
            1 => self.swap(store, false).await?,
            2 => {
                store.take_turn(&turn(), &job).await?;
            }
            3 => self.lost_turns += u32::from(!store.stamp_turn(&turn(), &job, clock::moment()).await?),
            5 => self.swap(store, true).await?,
            6 => {
                let taken = store.take_turn(&turn(), &job).await?;
                let begun_at = if let Turn::Ours { begun_at } = taken { begun_at } else { None };
                self.lost_turns += u32::from(begun_at.is_none());
            }
            7 => store.own(&account, product(1).id, &job).await?,
            8 => {
                store.owner(&account, product(1).id).await?;
            }
            9 => {
                store.join_listing(&account, Moment::default(), &job).await?;
            }
            10 => {
                store.add_page(&account, &job, &[product(1)], Some(&link)).await?;
            }
            11 => store.page_failed(&account, &job).await?,
            12 => {
                store.join_listing(&account, Moment::default(), &other).await?;
            }
            13 => {
                store.add_page(&account, &other, &[product(2)], None).await?;
            }
            14 => {
                store.listed(&account, "nic").await?;
            }
            15 => store.leave_listing(&account, &other).await?,
            16 => {
                for class in QuotaClass::ALL {
                    store.permit(&account, class, 0, 0.5).await?;
                }
            }
            17 => {
                store.throttled(&account, Duration::from_secs(600)).await?;
            }
            18 => {
                store.paused_until(&account).await?;
            }
            19 => {
                store.failed(&account).await?;
            }
            20 => store.succeeded(&account).await?,
            21 => store.waits_for_poll(&job).await?,
            22 => {
                store.polls_in_flight(&account).await?;
            }
            23 => {
                store.lease_token("word", 1, Duration::from_secs(15)).await?;
            }
            24 => store.store_token("word", b"sealed", clock::moment().after(Duration::from_secs(60))).await?,
            25 => {
                store.load_token("word").await?;
            }
            26 => store.release_token("word", 1).await?,
            other => panic!("there is no call {other}"),
        }
        Ok(())
    }

    /// All of them, one after the other.
    pub(crate) async fn all(&mut self, store: &Store) -> Result<(), Unavailable> {
        for number in 0..CALLS {
            self.call(store, number).await?;
        }
        Ok(())
    }
}

/// A walk on a memory that forgets nothing gets everywhere: the walks of other tests are worth something.
#[tokio::test]
async fn an_undisturbed_walk_gets_everywhere() {
    if !crate::servers::is_redis_installed() {
        return;
    }
    let redis = crate::harness::redis();
    let store = crate::harness::store(&redis);
    assert!(store.born_clean(true).await.unwrap());
    let mut walk = Walk::default();
    walk.all(&store).await.unwrap();
    assert_eq!((walk.refused, walk.lost_turns), (0, 0));
    let (job, account) = (key("walk"), account());
    assert!(store.load(&job).await.unwrap().record.unwrap().begun_at.is_some());
    assert_eq!(store.owner(&account, product(1).id).await.unwrap(), Some(job.clone()));
    assert_eq!(store.listed(&account, "nic").await.unwrap(), [product(1), product(2)]);
    let whole = store.join_listing(&account, Moment::default(), &job).await.unwrap();
    assert_eq!(whole, Listing::Whole { is_complete: true });
    let refused = store.permit(&account, QuotaClass::Write, 0, 0.5).await.unwrap();
    assert!(matches!(refused, Admission::Refused { by_gate: true, .. }));
    assert_eq!(store.load_token("word").await.unwrap().unwrap(), b"sealed");
    assert_eq!(store.polls_in_flight(&account).await.unwrap(), 1);
}

/// What is written once and for all would fill the memory of a fleet that runs for years.
#[tokio::test]
async fn every_key_but_the_birth_mark_has_an_end() {
    if !crate::servers::is_redis_installed() {
        return;
    }
    let redis = crate::harness::redis();
    let store = crate::harness::store(&redis);
    for number in 0..CALLS {
        let mut walk = Walk::default();
        for before in 0..=number {
            walk.call(&store, before).await.unwrap();
            assert!(redis.endless_keys().into_iter().all(|key| key == "longshore:born"), "{:?}", redis.endless_keys());
        }
    }
    let known = ["job", "turn", "own", "list", "rl", "polls", "tok", "view", "born"];
    let kind = |key: &String| key.split(':').nth(1).map(str::to_owned);
    assert!(redis.keys().iter().filter_map(kind).all(|kind| known.contains(&kind.as_str())), "{:?}", redis.keys());
    assert!(redis.keys().iter().all(|key| key.starts_with("longshore:")), "{:?}", redis.keys());
    assert_eq!(redis.endless_keys(), ["longshore:born"]);
}

#[tokio::test]
async fn a_job_that_nobody_touches_for_long_no_longer_counts_among_those_that_wait_for_a_poll() {
    if !crate::servers::is_redis_installed() {
        return;
    }
    let redis = crate::harness::redis();
    let (store, shift) = crate::harness::shifted(&redis);
    store.waits_for_poll(&key("gone")).await.unwrap();
    shift.advance(crate::harness::options().retention + Duration::from_secs(1));
    store.waits_for_poll(&key("walk")).await.unwrap();
    assert_eq!(store.polls_in_flight(&account()).await.unwrap(), 1);
}
