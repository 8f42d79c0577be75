//! A broker of three nodes that loses one: only with `LONGSHORE_TEST_RABBITMQ_NODES=3` (`make test-matrix`).

use std::collections::BTreeSet;

use longshore::{
    domain::step::Kind,
    rabbitmq::{Names, topology},
    sandbox::{Fault, FaultKind, Params},
};

use crate::{
    run_folder,
    servers::{self, RabbitMq, Redis},
    world::{World, until},
};

/// A world whose home is this cluster, all of its nodes named.
fn world(broker: &RabbitMq, redis: &Redis) -> World {
    let world = World::new();
    std::fs::write(world.path("broker-url"), broker.urls_of("guest", "guest")).unwrap();
    std::fs::write(world.path("redis-url"), redis.url()).unwrap();
    let key = world.path("seal-key");
    longshore::seal::Keyring::generate_file(&key).unwrap();
    run_folder::by_design(&key).unwrap();
    let more =
        "[home]\nbroker = \"file:broker-url\"\nstore = \"file:redis-url\"\n[security]\nkeys = [\"file:seal-key\"]\n";
    std::fs::write(world.path("more.toml"), more).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let properties = lapin::ConnectionProperties::default();
        let connection = lapin::Connection::connect(&broker.url(), properties).await.unwrap();
        let objects = topology::objects(&Names::new("longshore"), &BTreeSet::from(Kind::ALL));
        for (object, found) in topology::declare(&connection, &objects).await.unwrap() {
            assert_eq!(found, topology::Found::Well, "{}", object.name());
        }
    });
    world
}

#[test]
fn jobs_go_on_when_the_node_that_their_worker_is_connected_to_is_killed() {
    if !servers::is_cluster_chosen() {
        return;
    }
    let folder = run_folder::folder_of_this_test("fleet").unwrap();
    // Not the one that is shared: no other test loses a node by this one.
    let broker = RabbitMq::start(&folder.join("rabbitmq"));
    let redis = Redis::start(&folder.join("redis"));
    let world = world(&broker, &redis);
    let worker = world.worker();
    until("the worker is ready", || worker.says("/readyz", 200));
    let at = broker.nodes_of("guest");
    let place = *at.first().expect("a worker has connections");

    // Its write is under way when the node dies that brought its ticket, or that takes its next one.
    let params = Params { seconds: Some(3.0), ..Params::default() };
    world.fault(Fault { params, ..Fault::next("createProduct", FaultKind::Slow) });
    world.submit(&world.job("nic-1"), &[]).ended(0);
    until("its first write is under way", || world.was_called("createProduct"));
    broker.kill_node(place);
    // Two of three take new jobs, whichever of the addresses stands first. While a lane's next leader is elected it refuses,
    // which a producer is told, and may try again: the same id is the same job.
    for id in ["nic-2", "nic-3", "nic-4"] {
        until("a job is taken", || {
            let ran = world.submit(&world.job(id), &[]);
            assert!(ran.code == 0 || (ran.code == 13 && ran.err.contains("refused a message")), "{}", ran.err);
            ran.code == 0
        });
    }
    for id in ["nic-1", "nic-2", "nic-3", "nic-4"] {
        world.completes(id);
    }
    let now = broker.nodes_of("guest");
    assert!(!now.is_empty() && !now.contains(&place), "it is connected to {now:?} after {place} of {at:?} was killed");
    until("the worker is ready again", || worker.says("/readyz", 200));
    let verdict = world.sandbox.verdict();
    assert_eq!(verdict["totals"]["products"], 4, "{verdict:#}");
}
