//! The memory forgets, stands still, is full, is a replica, or is gone, between any two calls.

use std::time::Duration;

use longshore::{
    clock,
    domain::time::Moment,
    engine::ports::{Listing, Listings as _, Memory as _, Swapped, Turn, Turns as _},
    redis::Store,
};
use tokio::task::JoinSet;

use crate::{
    harness::{account, at, claimed, folder, in_time, key, options, redis, redis_with, store, ticket, until},
    servers::{self, Redis},
    walk::{CALLS, Walk, product, turn},
};

/// Writes a record of the job; it is there afterwards.
async fn remember(store: &Store, id: &str) {
    let loaded = store.load(&key(id)).await.unwrap();
    let record = claimed(&loaded, &ticket(id)).unwrap();
    let swapped = store.swap(&key(id), loaded.birth.epoch, loaded.version, &record).await.unwrap();
    assert_eq!(swapped, Swapped::Done);
}

#[tokio::test]
async fn a_flush_between_any_two_calls_is_a_new_life_and_fails_none() {
    if !servers::is_redis_installed() {
        return;
    }
    let redis = redis();
    let store = store(&redis);
    for flushed_before in 0..CALLS {
        redis.flush();
        assert!(store.born_clean(true).await.unwrap());
        let before = store.load(&key("walk")).await.unwrap();
        assert!(before.birth.is_clean && before.record.is_none());
        let mut walk = Walk::default();
        for number in 0..CALLS {
            if number == flushed_before {
                redis.flush();
            }
            walk.call(&store, number).await.unwrap_or_else(|down| panic!("call {number}: {down}"));
        }
        let after = store.load(&key("walk")).await.unwrap();
        assert!(after.birth.epoch != before.birth.epoch && !after.birth.is_clean, "flushed before {flushed_before}");
        // Nothing of the old life is believed: what was decided on before is refused, and a stamp is gone.
        assert_eq!(walk.refused, u32::from([1, 5].contains(&flushed_before)), "flushed before {flushed_before}");
        assert_eq!(walk.lost_turns > 0, (3..=6).contains(&flushed_before), "flushed before {flushed_before}");
    }
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_brought_again() {
    if !servers::is_redis_installed() {
        return;
    }
    let redis = redis();
    let store = store(&redis);
    assert!(store.born_clean(true).await.unwrap());
    let mut walk = Walk::default();
    for number in 0..CALLS {
        assert_eq!(redis.cli(&["SCRIPT", "FLUSH"]), "OK");
        walk.call(&store, number).await.unwrap();
    }
    assert_eq!((walk.refused, walk.lost_turns), (0, 0));
}

#[tokio::test]
async fn a_memory_that_kept_its_data_over_a_restart_is_another_life() {
    if !servers::is_redis_installed() {
        return;
    }
    let mut redis = redis_with(&[("appendonly", "yes"), ("appendfsync", "always")]);
    let store = store(&redis);
    assert!(store.born_clean(true).await.unwrap());
    for is_killed in [false, true] {
        remember(&store, "walk").await;
        let (account, job) = (account(), key("walk"));
        store.take_turn(&turn(), &job).await.unwrap();
        assert!(store.stamp_turn(&turn(), &job, clock::moment()).await.unwrap());
        store.join_listing(&account, Moment::default(), &job).await.unwrap();
        store.add_page(&account, &job, &[product(1)], None).await.unwrap();
        assert_eq!(store.listed(&account, "nic").await.unwrap(), [product(1)]);
        let before = store.load(&key("walk")).await.unwrap();
        let next = claimed(&before, &ticket("walk").at_step(longshore::domain::step::Step::Download)).unwrap();
        if is_killed {
            redis.kill();
        } else {
            redis.stop();
        }
        let down = in_time(store.load(&key("walk"))).await.unwrap_err();
        assert_eq!(down.what, "memory");
        redis.start_again();
        let after = until(async || store.load(&key("walk")).await).await;
        // The record is there: on its own it would be believed.
        assert_eq!(after.record, before.record);
        assert_ne!(after.birth.epoch, before.birth.epoch);
        assert!(!after.birth.is_clean && after.known().is_none());
        let refused = store.swap(&key("walk"), before.birth.epoch, before.version, &next).await.unwrap();
        assert!(matches!(refused, Swapped::Refused(present) if present.birth == after.birth));
        // So are a turn and a listing: what happened since is not known.
        assert_eq!(store.take_turn(&turn(), &job).await.unwrap(), Turn::Ours { begun_at: None });
        assert_eq!(store.listed(&account, "nic").await.unwrap(), []);
        let listing = store.join_listing(&account, Moment::default(), &job).await.unwrap();
        assert_eq!(listing, Listing::Ours { next: None });
        redis.flush();
    }
}

#[tokio::test]
async fn a_memory_that_stands_still_holds_nobody_and_is_used_again_when_it_goes_on() {
    if !servers::is_redis_installed() {
        return;
    }
    let redis = redis();
    let store = store(&redis);
    Walk::default().all(&store).await.unwrap();
    redis.freeze();
    let mut calls = JoinSet::new();
    for number in 0..CALLS {
        let store = store.clone();
        calls.spawn(async move {
            let mut walk = Walk::default();
            in_time(walk.call(&store, number)).await
        });
    }
    let answers = in_time(calls.join_all()).await;
    // A swap of a walk that has loaded nothing asks for nothing.
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 2, "{answers:?}");
    // One that comes later finds no connection, and ends as well.
    in_time(store.load(&key("walk"))).await.unwrap_err();
    redis.thaw();
    let loaded = until(async || store.load(&key("walk")).await).await;
    assert!(loaded.known().is_some());
    Walk::default().all(&store).await.unwrap();
}

#[tokio::test]
async fn a_full_memory_says_so_and_writes_nothing_by_halves() {
    if !servers::is_redis_installed() {
        return;
    }
    let redis = redis_with(&[("maxmemory-policy", "noeviction")]);
    let store = store(&redis);
    assert!(store.born_clean(true).await.unwrap());
    let mut walk = Walk::default();
    for number in 0..CALLS {
        let before = dump(&redis);
        assert_eq!(redis.cli(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
        // A copy of the walk: what is refused now is done below.
        let mut refused = Walk { loaded: walk.loaded.clone(), ..Walk::default() };
        match in_time(refused.call(&store, number)).await {
            Ok(()) => {}
            Err(down) => {
                let said = down.to_string();
                assert!(said.contains("OOM") && said.contains("full"), "call {number}: {said}");
                assert_eq!(dump(&redis), before, "call {number} was refused and wrote");
            }
        }
        assert_eq!(redis.cli(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
        walk.call(&store, number).await.unwrap();
    }
    assert_eq!(redis.cli(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    let loaded = store.load(&key("walk")).await.unwrap();
    let record = claimed(&loaded, &ticket("walk").at_step(longshore::domain::step::Step::Download)).unwrap();
    store.swap(&key("walk"), loaded.birth.epoch, loaded.version, &record).await.unwrap_err();
    assert_eq!(store.load(&key("walk")).await.unwrap().version, loaded.version);
}

/// Every key with its value and whether it ends.
fn dump(redis: &Redis) -> String {
    let script = "local all = {} local keys = redis.call('KEYS', '*') table.sort(keys) for _, key in ipairs(keys) do \
                  table.insert(all, key .. ' ' .. redis.sha1hex(redis.call('DUMP', key)) .. ' ' .. \
                  tostring(redis.call('PTTL', key) > 0)) end return all";
    redis.cli(&["EVAL", script, "0"])
}

#[tokio::test]
async fn a_replica_is_no_memory() {
    if !servers::is_redis_installed() {
        return;
    }
    let primary = redis();
    let replica = Redis::with(&folder(), &[("replicaof", &format!("127.0.0.1 {}", primary.port))]);
    let down = store(&replica).load(&key("walk")).await.unwrap_err().to_string();
    assert!(down.contains("replica"), "{down}");

    // One that becomes a replica while it is used: its first write is refused, and it is asked who it is from then on.
    let used = store(&primary);
    remember(&used, "walk").await;
    let other = redis_with(&[]);
    assert_eq!(primary.cli(&["REPLICAOF", "127.0.0.1", &other.port.to_string()]), "OK");
    let down = used.born_clean(false).await.unwrap_err().to_string();
    assert!(down.contains("replica"), "{down}");
    let down = used.load(&key("walk")).await.unwrap_err().to_string();
    assert!(down.contains("replica"), "{down}");
    assert_eq!(primary.cli(&["REPLICAOF", "NO", "ONE"]), "OK");
    let loaded = until(async || used.load(&key("walk")).await).await;
    assert!(loaded.known().is_none() && !loaded.birth.is_clean);
}

#[tokio::test]
async fn a_primary_without_its_replicas_is_no_memory() {
    if !servers::is_redis_installed() {
        return;
    }
    let redis = redis();
    let store = store(&redis);
    remember(&store, "walk").await;
    let loaded = store.load(&key("walk")).await.unwrap();
    let next = claimed(&loaded, &ticket("walk").at_step(longshore::domain::step::Step::Download)).unwrap();
    assert_eq!(redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]), "OK");
    let down = store.swap(&key("walk"), loaded.birth.epoch, loaded.version, &next).await.unwrap_err().to_string();
    assert!(down.contains("NOREPLICAS") && down.contains("lost its replicas"), "{down}");
    assert_eq!(redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]), "OK");
    let known = until(async || store.load(&key("walk")).await).await;
    assert_eq!((known.version, known.record), (loaded.version, loaded.record));
}

#[tokio::test]
async fn a_cluster_is_refused_by_name() {
    if !servers::is_redis_installed() {
        return;
    }
    let bus = servers::free_port().to_string();
    let redis =
        redis_with(&[("cluster-enabled", "yes"), ("cluster-config-file", "nodes.conf"), ("cluster-port", &bus)]);
    let down = store(&redis).load(&key("walk")).await.unwrap_err().to_string();
    assert!(down.contains("Redis Cluster") && down.contains("Sentinel"), "{down}");
}

#[tokio::test]
async fn what_matters_of_a_server_is_told() {
    if !servers::is_redis_installed() {
        return;
    }
    let redis = redis_with(&[("maxmemory-policy", "allkeys-lru")]);
    let server = store(&redis).server().await.unwrap();
    assert_eq!(server.eviction.as_deref(), Some("allkeys-lru"));
    assert_eq!(redis.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]), "OK");
    let server = store(&redis).server().await.unwrap();
    assert_eq!((server.eviction.as_deref(), server.replicas), (Some("noeviction"), 0));
    assert!(!server.needs_replicas);
    assert_eq!(redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]), "OK");
    assert!(store(&redis).server().await.unwrap().needs_replicas);
}

#[tokio::test]
async fn nobody_waits_for_a_server_that_is_not_there() {
    if !servers::is_redis_installed() {
        return;
    }
    let nowhere = Store::new(&at(format!("redis://127.0.0.1:{}", servers::free_port())), options()).unwrap();
    for _ in 0..3 {
        let call = tokio::time::timeout(Duration::from_secs(1), nowhere.load(&key("walk"))).await;
        assert_eq!(call.unwrap().unwrap_err().what, "memory");
    }
}
