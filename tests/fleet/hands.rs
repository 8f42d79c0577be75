//! A worker's hands without the engine: the home of the fleet, on a real broker and a real Redis, moved by a test.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::FieldTable,
};
use longshore::{
    clock,
    domain::{
        settlement::{Entry, Next, Settlement},
        step::Kind,
        time::Moment,
    },
    engine::ports::{Queue as _, Received, Settled, Unavailable},
    fleet::Fleet,
    rabbitmq::{self, Delivery, Names, Rabbit, topology},
    redis::{self, Address, Store, Tls},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    run_folder,
    servers::{RabbitMq, Redis},
};

/// How long something may take that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A job of kind `status-poll` with this id.
pub(crate) fn job(id: &str) -> String {
    format!(
        r#"{{"id":"{id}","kind":"status-poll","account":"contoso","spec":{{"product":{{"id":"1"}},"submission":{{"id":"2"}}}}}}"#
    )
}

/// Names of one test at a broker, and a memory of its own.
pub(crate) struct Hands {
    pub(crate) broker: Arc<RabbitMq>,
    pub(crate) redis: Redis,
    pub(crate) names: Names,
    looking: Connection,
    publishing: Channel,
    supervisors: Mutex<JoinSet<()>>,
}

impl Hands {
    /// At the broker that the tests share.
    pub(crate) async fn new() -> Self {
        let broker = RabbitMq::shared(&run_folder::root().join(format!("rabbitmq-{}", std::process::id())));
        Self::at(broker, &folder()).await
    }

    /// At a broker of its own, for what would disturb others.
    pub(crate) async fn alone() -> Self {
        let folder = folder();
        Self::at(Arc::new(RabbitMq::start(&folder.join("rabbitmq"))), &folder).await
    }

    /// At this broker.
    pub(crate) async fn with(broker: RabbitMq, folder: &std::path::Path) -> Self {
        Self::at(Arc::new(broker), folder).await
    }

    async fn at(broker: Arc<RabbitMq>, folder: &std::path::Path) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let names = Names::new(format!("hands{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let redis = Redis::start(&folder.join("redis"));
        let connect = async || Connection::connect(&broker.url(), ConnectionProperties::default()).await.unwrap();
        let (looking, publisher) = (connect().await, connect().await);
        let publishing = publisher.create_channel().await.unwrap();
        publishing.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let this = Self { broker, redis, names, looking, publishing, supervisors: Mutex::new(JoinSet::new()) };
        this.declare().await;
        this
    }

    pub(crate) async fn declare(&self) {
        let objects = topology::objects(&self.names, &BTreeSet::from(Kind::ALL));
        for (object, found) in topology::declare(&self.looking, &objects).await.unwrap() {
            assert_eq!(found, topology::Found::Well, "{}", object.name());
        }
    }

    pub(crate) async fn channel(&self) -> Channel {
        self.looking.create_channel().await.unwrap()
    }

    pub(crate) fn options<const N: usize>(&self, lanes: [(Kind, u16); N]) -> rabbitmq::Options {
        rabbitmq::Options {
            urls: vec![self.broker.url().into()],
            prefix: self.names.prefix().to_owned(),
            lanes: BTreeMap::from(lanes),
            ..rabbitmq::Options::default()
        }
    }

    pub(crate) fn store(&self, options: redis::Options) -> Store {
        let address = Address { url: self.redis.url().into(), sentinel: None, tls: Tls::default() };
        Store::new(&address, options).unwrap()
    }

    /// A worker's home that is connected, and what ends it.
    pub(crate) async fn home(&self, options: rabbitmq::Options) -> (Fleet, CancellationToken) {
        let rabbit = Rabbit::new(options);
        let stop = CancellationToken::new();
        let (supervised, stopped) = (rabbit.clone(), stop.clone());
        self.supervisors.lock().unwrap().spawn(async move { supervised.supervise(&stopped).await });
        tokio::time::timeout(PATIENCE, rabbit.ready()).await.unwrap();
        (Fleet::new(rabbit, self.store(redis::Options::default())), stop)
    }

    /// Waits until every home has ended.
    pub(crate) async fn ended(&self, within: Duration) {
        let mut supervisors = std::mem::take(&mut *self.supervisors.lock().unwrap());
        let all = async { while supervisors.join_next().await.is_some() {} };
        tokio::time::timeout(within, all).await.expect("a supervisor goes on");
    }

    /// Publishes as an administrator; true when the broker took it.
    pub(crate) async fn send(&self, exchange: &str, key: &str, properties: BasicProperties, body: &[u8]) -> bool {
        let properties = properties.with_delivery_mode(2);
        let (exchange, key, options) = (exchange.into(), key.into(), BasicPublishOptions::default());
        let sent = self.publishing.basic_publish(exchange, key, options, body, properties);
        sent.await.unwrap().await.unwrap().is_ack()
    }

    /// Publishes a job as a producer does.
    pub(crate) async fn hand_in(&self, key: &str, body: &str) {
        let properties = BasicProperties::default().with_user_id("guest".into());
        assert!(self.send(&self.names.jobs(), key, properties, body.as_bytes()).await);
    }

    /// Messages that wait in a queue, and its consumers.
    pub(crate) async fn depth(&self, queue: &str) -> (u32, u32) {
        let channel = self.channel().await;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
        channel.close(200, "seen".into()).await.unwrap();
        (queue.message_count(), queue.consumer_count())
    }

    /// Waits until so many messages wait in a queue.
    pub(crate) async fn holds(&self, queue: &str, count: u32) {
        until(&format!("{queue} holds {count}"), async || self.depth(queue).await.0 == count).await;
    }
}

/// A folder of this test.
pub(crate) fn folder() -> PathBuf {
    run_folder::folder_of_this_test("fleet").unwrap()
}

/// Asks again and again until it is so.
pub(crate) async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let begun = clock::monotonic();
    while !is_so().await {
        assert!(begun.elapsed() < PATIENCE, "it did not come in time: {what}");
        tokio::task::yield_now().await;
    }
}

/// The next message, which must come.
pub(crate) async fn receive(home: &Fleet, kind: Kind) -> Received<Delivery> {
    tokio::time::timeout(PATIENCE, home.receive(kind)).await.expect("nothing comes").unwrap()
}

/// Settles a delivery: what `next` says is handed on first.
pub(crate) async fn settle(home: &Fleet, delivery: Delivery, next: Next) -> Result<Settled, Unavailable> {
    let settlement = Settlement { received: None, claimant: None, entry: Entry::Nothing, events: Vec::new(), next };
    home.settle(delivery, None, settlement).await
}

/// A message to be handed on at once.
pub(crate) fn now(body: &str) -> Next {
    Next::Raw { body: body.to_owned(), due: Moment::from_millis(0) }
}
