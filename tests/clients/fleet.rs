//! A fleet: private servers, the sandbox, and a configuration for workers and clients.

use std::{collections::BTreeSet, sync::Arc};

use longshore::{
    domain::step::Kind,
    rabbitmq::{Names, topology},
};
use serde_json::json;

use crate::{
    run_folder,
    servers::{RabbitMq, Redis},
    world::World,
};

/// One test's own: names at a shared broker, a memory, a sandbox.
pub(crate) struct Fleet {
    pub(crate) world: World,
    pub(crate) broker: Arc<RabbitMq>,
    _redis: Redis,
    pub(crate) prefix: String,
}

impl Fleet {
    pub(crate) fn new(prefix: &str, producers: &[&str]) -> Self {
        let world = World::new();
        let broker = RabbitMq::shared(&run_folder::root().join(format!("rabbitmq-{}", std::process::id())));
        let redis = Redis::start(&world.path("redis"));
        std::fs::write(world.path("broker-url"), broker.url()).unwrap();
        std::fs::write(world.path("redis-url"), redis.url()).unwrap();
        let key = world.path("seal-key");
        longshore::seal::Keyring::generate_file(&key).unwrap();
        run_folder::by_design(&key).unwrap();
        let more = format!(
            "[home]\nbroker = \"file:broker-url\"\nstore = \"file:redis-url\"\n[topology]\nprefix = \"{prefix}\"\n\
             [security]\nkeys = [\"file:seal-key\"]\n[accounts.contoso]\nproducers = {}\n",
            json!(producers),
        );
        std::fs::write(world.path("more.toml"), more).unwrap();
        let fleet = Self { world, broker, _redis: redis, prefix: prefix.to_owned() };
        fleet.declare();
        fleet
    }

    fn declare(&self) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let url = self.broker.url();
            let connection = lapin::Connection::connect(&url, lapin::ConnectionProperties::default()).await.unwrap();
            let objects = topology::objects(&Names::new(&self.prefix), &BTreeSet::from(Kind::ALL));
            for (object, found) in topology::declare(&connection, &objects).await.unwrap() {
                assert_eq!(found, topology::Found::Well, "{}", object.name());
            }
        });
    }
}
