//! Behind Sentinel: the memory moves to a replica that lacks what was written last.

use std::time::Duration;

use longshore::{
    engine::ports::{Memory as _, Swapped},
    redis::{Address, Node, Sentinel, Store, Tls},
};

use crate::{
    harness::{claimed, folder, key, options, redis_with, ticket, until},
    servers::{self, Redis},
};

const NAME: &str = "longshore";

/// A primary, its replica, and three Sentinels that agree on both.
fn servers() -> (Redis, Redis, Vec<Redis>) {
    let primary = redis_with(&[("repl-diskless-sync-delay", "0")]);
    let replica = Redis::with(&folder(), &[("replicaof", &format!("127.0.0.1 {}", primary.port))]);
    let sentinels: Vec<_> = (0..3).map(|_| Redis::sentinel(&folder(), NAME, primary.port)).collect();
    wait_for("the replica and the Sentinels", || {
        primary.cli(&["INFO", "replication"]).contains("connected_slaves:1")
            && sentinels.iter().all(|one| {
                let seen = one.cli(&["SENTINEL", "MASTER", NAME]);
                one.cli(&["SENTINEL", "CKQUORUM", NAME]).starts_with("OK")
                    && value(&seen, "num-slaves") == Some("1")
                    && value(&seen, "num-other-sentinels") == Some("2")
            })
    });
    (primary, replica, sentinels)
}

fn value<'a>(said: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = said.lines();
    lines.by_ref().find(|line| *line == name)?;
    lines.next()
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let begun = longshore::clock::monotonic();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never came: {what}");
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_fail_over_that_lost_writes_an_old_record_is_of_another_life() {
    if !servers::is_redis_installed() {
        return;
    }
    let (mut primary, replica, sentinels) = servers();
    let nodes = sentinels.iter().map(|one| Node { host: "127.0.0.1".to_owned(), port: one.port }).collect();
    // The URL's host is not asked: nobody listens there.
    let address = Address {
        url: "redis://127.0.0.1:9".into(),
        sentinel: Some(Sentinel { master: NAME.to_owned(), nodes, user: None, password: None }),
        tls: Tls::default(),
    };
    let store = Store::new(&address, options()).unwrap();
    assert!(store.born_clean(true).await.unwrap());
    let write = async |step: Option<longshore::domain::step::Step>| {
        let ticket = step.map_or(ticket("walk"), |step| ticket("walk").at_step(step));
        let loaded = store.load(&key("walk")).await.unwrap();
        let record = claimed(&loaded, &ticket).unwrap();
        let swapped = store.swap(&key("walk"), loaded.birth.epoch, loaded.version, &record).await.unwrap();
        assert_eq!(swapped, Swapped::Done);
    };
    write(None).await;
    let old = store.load(&key("walk")).await.unwrap();
    let kept = || replica.cli(&["HGET", "longshore:job:contoso/walk", "version"]);
    wait_for("the first record at the replica", || kept() == old.version.to_string());
    // The replica stands still and is cut off while the second record is written; then the primary is gone.
    replica.freeze();
    assert_eq!(primary.cli(&["CLIENT", "KILL", "TYPE", "replica"]), "1");
    write(Some(longshore::domain::step::Step::Download)).await;
    let lost = store.load(&key("walk")).await.unwrap();
    assert!(lost.version > old.version);
    primary.kill();
    replica.thaw();

    let now = until(async || store.load(&key("walk")).await).await;
    assert_eq!(replica.cli(&["ROLE"]).lines().next(), Some("master"));
    // It brought the old record and the old birth mark along, as clean: neither is believed.
    assert_eq!((now.version, &now.record), (old.version, &old.record));
    assert_ne!(now.birth.epoch, lost.birth.epoch);
    assert!(!now.birth.is_clean && now.known().is_none());
    let record = lost.record.unwrap();
    let swapped = store.swap(&key("walk"), lost.birth.epoch, now.version, &record).await.unwrap();
    assert!(matches!(swapped, Swapped::Refused(_)));

    // The old primary comes back as a replica, and nobody takes it for the memory.
    primary.start_again();
    wait_for("the old primary as a replica", || primary.cli(&["ROLE"]).starts_with("slave"));
    let again = until(async || store.load(&key("walk")).await).await;
    assert_eq!(again.birth, now.birth);
}
