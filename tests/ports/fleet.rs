//! The fleet under the suite: a real RabbitMQ for all tests of the process, each with names of its own, and a real Redis
//! for each, whose clock the test moves.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, BasicGetOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use longshore::{
    clock::Shift,
    domain::{
        event::{Event, Name},
        ids::JobKey,
        quota::Limits,
        step::Kind,
        ticket::Ticket,
        time::Moment,
        trace::Trace,
    },
    engine::{ports::Origin, settle::Broker as _},
    fleet::Fleet,
    rabbitmq::{self, Names, Rabbit, topology},
    redis::{self, Address, Scope, Store, Tls},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    harness::{Harness, RATE, account},
    servers::{RabbitMq, Redis},
};

/// A broker's names and a Redis of its own.
pub(crate) struct Servers {
    broker: Arc<RabbitMq>,
    redis: Redis,
    prefix: String,
    shift: Shift,
    looker: lapin::Channel,
    events: tokio::sync::Mutex<Vec<Event>>,
    looking: lapin::Connection,
    supervisors: Mutex<JoinSet<()>>,
    stops: Mutex<BTreeMap<u128, CancellationToken>>,
}

impl Servers {
    async fn connect(&self) -> (Rabbit, CancellationToken) {
        let options = rabbitmq::Options {
            urls: vec![self.broker.url().into()],
            prefix: self.prefix.clone(),
            lanes: Kind::ALL.map(|kind| (kind, 10)).into(),
            shift: self.shift.clone(),
            ..rabbitmq::Options::default()
        };
        let rabbit = Rabbit::new(options);
        let stop = CancellationToken::new();
        let (supervised, stopped) = (rabbit.clone(), stop.clone());
        self.supervisors.lock().unwrap().spawn(async move { supervised.supervise(&stopped).await });
        rabbit.ready().await;
        (rabbit, stop)
    }

    fn store(&self) -> Store {
        let address = Address { url: self.redis.url().into(), sentinel: None, tls: Tls::default() };
        let limits = Limits { calls_per_minute: RATE, ..Limits::default() };
        let scope = Scope { name: "contoso".to_owned(), limits };
        let options = redis::Options {
            accounts: BTreeMap::from([(account(), scope)]),
            shift: self.shift.clone(),
            ..redis::Options::default()
        };
        Store::new(&address, options).unwrap()
    }
}

/// Whatever a test of the suite has done, what it left in the memory has an end: all but the birth mark.
impl Drop for Servers {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let endless = self.redis.endless_keys();
            assert!(endless.iter().all(|key| key == "longshore:born"), "{endless:?}");
        }
    }
}

impl Harness for Servers {
    type Home = Fleet;

    async fn fresh() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let folder = crate::run_folder::folder_of_this_test("ports").unwrap();
        let broker = RabbitMq::shared(&crate::run_folder::root().join(format!("rabbitmq-{}", std::process::id())));
        let redis = Redis::start(&folder.join("redis"));
        let prefix = format!("ports{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let uri = broker.url();
        let looking = lapin::Connection::connect(&uri, lapin::ConnectionProperties::default()).await.unwrap();
        let objects = topology::objects(&Names::new(&prefix), &BTreeSet::from(Kind::ALL));
        for (object, found) in topology::declare(&looking, &objects).await.unwrap() {
            assert_eq!(found, topology::Found::Well, "{}", object.name());
        }
        let looker = looking.create_channel().await.unwrap();
        let names = Names::new(&prefix);
        let queue = format!("{prefix}.seen");
        looker
            .queue_declare(queue.as_str().into(), QueueDeclareOptions::durable(), FieldTable::default())
            .await
            .unwrap();
        let (bound, exchange) = (queue.as_str().into(), names.events().as_str().into());
        looker
            .queue_bind(bound, exchange, "#".into(), QueueBindOptions::default(), FieldTable::default())
            .await
            .unwrap();
        let this = Self {
            broker,
            redis,
            prefix,
            shift: Shift::default(),
            looker,
            events: tokio::sync::Mutex::default(),
            looking,
            supervisors: Mutex::new(JoinSet::new()),
            stops: Mutex::default(),
        };
        assert!(this.store().born_clean(true).await.unwrap());
        this
    }

    async fn worker(&self) -> (Fleet, u128) {
        let (rabbit, stop) = self.connect().await;
        let home = Fleet::new(rabbit, self.store());
        let id = home.id();
        self.stops.lock().unwrap().insert(id, stop);
        (home, id)
    }

    async fn kill(&self, worker: Fleet) {
        let stop = self.stops.lock().unwrap().remove(&worker.id()).unwrap();
        stop.cancel();
        worker.broker().gone().await;
        // Memory learns of a death when the lease runs out.
        self.advance(Duration::from_secs(61)).await;
    }

    const PARK: Duration = Duration::from_secs(3);
    const PUT: Origin = Origin::Return;

    async fn rest(&self, worker: &Fleet) {
        worker.broker().rest(&|_| Ok(())).await.unwrap();
    }

    async fn put(&self, ticket: &Ticket) {
        let (rabbit, stop) = self.connect().await;
        Fleet::new(rabbit.clone(), self.store()).publish(ticket).await.unwrap();
        stop.cancel();
        rabbit.gone().await;
    }

    async fn advance(&self, span: Duration) {
        self.shift.advance(span);
    }

    async fn lose_memory(&self) {
        self.redis.flush();
    }

    async fn events(&self) -> Vec<Event> {
        let mut events = self.events.lock().await;
        let queue = format!("{}.seen", self.prefix);
        while let Some(got) =
            self.looker.basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true }).await.unwrap()
        {
            events.push(read_event(&got.delivery));
        }
        events.clone()
    }

    async fn set_aside(&self) -> Vec<Option<JobKey>> {
        let channel = self.looking.create_channel().await.unwrap();
        let queue = Names::new(&self.prefix).set_aside();
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await.unwrap();
        let options = BasicConsumeOptions::default();
        let mut letters =
            channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default()).await.unwrap();
        let mut jobs = Vec::new();
        for _ in 0..declared.message_count() {
            let letter = letters.next().await.unwrap().unwrap();
            jobs.push(header(&letter, "longshore-job").and_then(|job| JobKey::parse(&job)));
        }
        // Unacknowledged, they go back in their order.
        channel.close(200, "seen".into()).await.unwrap();
        jobs
    }
}

fn header(message: &lapin::message::Delivery, name: &str) -> Option<String> {
    let value = message.properties.headers().as_ref()?.inner().get(name)?;
    value.as_long_string().map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned())
}

/// A `CloudEvent` in binary mode, as a consumer reads it.
fn read_event(message: &lapin::message::Delivery) -> Event {
    let header = |name: &str| header(message, name).unwrap_or_else(|| panic!("no {name}"));
    let kind = header("ce-type");
    let name = kind.strip_prefix("dev.longshore.job.").unwrap().strip_suffix(".v1").unwrap().to_owned();
    let name: Name = serde_json::from_value(name.into()).unwrap();
    let account = header("ce-source").strip_prefix("/accounts/").unwrap().to_owned();
    let job = JobKey::parse(&format!("{account}/{}", header("ce-subject"))).unwrap();
    let key: Vec<&str> = message.routing_key.as_str().split('.').collect();
    assert_eq!((key[0], key[1], key[3]), ("v1", account.as_str(), name.as_str()));
    assert_eq!(header("ce-specversion"), "1.0");
    Event {
        id: header("ce-id").parse().unwrap(),
        name,
        job: job.clone(),
        kind: key[2].parse().unwrap(),
        sequence: header("ce-sequence"),
        time: Moment::from(header("ce-time").parse::<jiff::Timestamp>().unwrap()),
        topic: longshore::domain::ids::Topic::of_job(&job.id),
        labels: BTreeMap::new(),
        trace: Trace::read(&header("ce-traceparent"), None),
        data: serde_json::from_slice(&message.data).unwrap(),
    }
}

crate::port_suite!(Servers, #[tokio::test(flavor = "multi_thread", worker_threads = 2)]);
