//! A fleet: private servers, the sandbox, and a configuration for workers and clients.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
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

/// A broker that the tests of this process share, and a memory of one's own.
pub(crate) struct Servers {
    pub(crate) broker: Arc<RabbitMq>,
    pub(crate) redis: Redis,
}

impl Servers {
    pub(crate) fn new(folder: &Path) -> Self {
        let broker = RabbitMq::shared(&run_folder::root().join(format!("rabbitmq-{}", std::process::id())));
        Self { broker, redis: Redis::start(&folder.join("redis")) }
    }
}

/// One test's own: names at a shared broker, a memory, a sandbox.
pub(crate) struct Fleet {
    pub(crate) world: World,
    pub(crate) broker: Arc<RabbitMq>,
    servers: Servers,
    pub(crate) prefix: String,
}

impl Fleet {
    pub(crate) fn new(prefix: &str, producers: &[&str]) -> Self {
        let world = World::new();
        let servers = Servers::new(world.path("").as_path());
        let (broker, redis) = (Arc::clone(&servers.broker), &servers.redis);
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
        let fleet = Self { world, broker, servers, prefix: prefix.to_owned() };
        fleet.declare();
        fleet
    }

    fn declare(&self) {
        self.with(async |channel, connection| {
            drop(channel);
            let objects = topology::objects(&Names::new(&self.prefix), &BTreeSet::from(Kind::ALL));
            for (object, found) in topology::declare(&connection, &objects).await.unwrap() {
                assert_eq!(found, topology::Found::Well, "{}", object.name());
            }
        });
    }

    /// The memory's server.
    pub(crate) fn redis(&self) -> &Redis {
        &self.servers.redis
    }

    /// The memory is emptied.
    pub(crate) fn forget(&self) {
        self.servers.redis.flush();
    }

    /// Does this with a connection of its own.
    fn with(&self, act: impl AsyncFnOnce(Channel, Connection)) {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let url = self.broker.url();
            let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
            act(connection.create_channel().await.unwrap(), connection).await;
        });
    }

    /// Binds a queue by hand.
    pub(crate) fn bind(&self, exchange: &str, queue: &str, key: &str) {
        self.with(async |channel, _connection| {
            let (queue, exchange, key) = (queue.into(), exchange.into(), key.into());
            channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default()).await.unwrap();
        });
    }

    /// How many messages wait in a queue, and how many consumers.
    pub(crate) fn depth(&self, queue: &str) -> (u32, u32) {
        let mut count = (0, 0);
        self.with(async |channel, _connection| {
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let queue = channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
            count = (queue.message_count(), queue.consumer_count());
        });
        count
    }

    /// Publishes the first message of a queue once more, as a worker does that dies before it settles.
    pub(crate) fn double(&self, queue: &str, exchange: &str, key: &str) {
        self.with(async |channel, connection| {
            channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
            let options = BasicConsumeOptions::default();
            let consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
            let first = consumer.await.unwrap().next().await.unwrap().unwrap();
            let (exchange, key, options) = (exchange.into(), key.into(), BasicPublishOptions::default());
            let sent = channel.basic_publish(exchange, key, options, &first.data, first.properties.clone());
            assert!(sent.await.unwrap().await.unwrap().is_ack());
            connection.close(200, "done".into()).await.unwrap();
        });
    }

    /// Headers and body of the first message of a queue, which stays there.
    pub(crate) fn first(&self, queue: &str) -> (BTreeMap<String, String>, Vec<u8>) {
        let mut consuming = self.consume(queue);
        let message = consuming.runtime.block_on(async {
            let message = consuming.consumer.next().await.unwrap().unwrap();
            // Closed in good order, it is no consumer any more for whoever looks next.
            consuming.connection.close(200, "seen".into()).await.unwrap();
            message
        });
        let headers = message.properties.headers().as_ref().unwrap().inner();
        let text = |value: &AMQPValue| {
            value.as_long_string().map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned())
        };
        let headers = headers.iter().filter_map(|(name, value)| Some((name.to_string(), text(value)?))).collect();
        (headers, message.data)
    }

    /// Consumes a queue until it is dropped, and settles nothing.
    pub(crate) fn consume(&self, queue: &str) -> Consuming {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (connection, consumer) = runtime.block_on(async {
            let url = self.broker.url();
            let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
            let channel = connection.create_channel().await.unwrap();
            let options = BasicConsumeOptions::default();
            let consumer =
                channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.unwrap();
            (connection, consumer)
        });
        Consuming { consumer, connection, runtime }
    }
}

/// A consumer of somebody else's.
pub(crate) struct Consuming {
    consumer: lapin::Consumer,
    connection: Connection,
    runtime: tokio::runtime::Runtime,
}

/// The same with headers of the producer's.
pub(crate) fn publish_with(fleet: &Fleet, key: &str, body: &str, headers: &[(&str, &str)]) {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert((*name).into(), AMQPValue::LongString((*value).into()));
    }
    send(fleet, (&fleet.broker.url(), "guest"), (key, body), table);
}

/// Publishes a text where producers write, in the name of the user that it is published by.
pub(crate) fn publish(fleet: &Fleet, key: &str, body: &str) {
    publish_as(fleet, (&fleet.broker.url(), "guest"), key, body);
}

/// The same as this user, at this URL.
pub(crate) fn publish_as(fleet: &Fleet, at: (&str, &str), key: &str, body: &str) {
    send(fleet, at, (key, body), FieldTable::default());
}

fn send(fleet: &Fleet, (url, user): (&str, &str), (key, body): (&str, &str), headers: FieldTable) {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let exchange = Names::new(&fleet.prefix).jobs();
        let properties =
            BasicProperties::default().with_delivery_mode(2).with_user_id(user.into()).with_headers(headers);
        let (exchange, key, options) = (exchange.as_str().into(), key.into(), BasicPublishOptions::default());
        let sent = channel.basic_publish(exchange, key, options, body.as_bytes(), properties);
        assert!(sent.await.unwrap().await.unwrap().is_ack());
    });
}
