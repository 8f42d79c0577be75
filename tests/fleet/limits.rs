//! What a broker counts, by versions: 4.3 counts a `basic.reject` and no `basic.nack`, 3.10 says 0 where 4.x says nothing.

use std::time::Duration;

use lapin::{
    BasicProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use longshore::{
    domain::step::Kind,
    engine::ports::{Origin, Queue as _},
    fleet::Fleet,
    rabbitmq::{self, Rabbit},
    redis::{self, Address, Store, Tls},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{place::Place, servers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_that_its_worker_drops_comes_a_hundred_times_again_and_then_from_the_dead_letters() {
    if !servers::are_installed() {
        return;
    }
    let place = Place::new();
    place.run(&["topology", "declare"]).ended(0);
    let rabbit = Rabbit::new(rabbitmq::Options {
        urls: vec![place.broker.url().into()],
        prefix: place.prefix.clone(),
        lanes: [(Kind::Upload, 4)].into(),
        ..rabbitmq::Options::default()
    });
    let (mut supervisor, stop) = (JoinSet::new(), CancellationToken::new());
    let (supervised, stopped) = (rabbit.clone(), stop.clone());
    supervisor.spawn(async move { supervised.supervise(&stopped).await });
    rabbit.ready().await;
    let address = Address { url: place.redis.url().into(), sentinel: None, tls: Tls::default() };
    let home = Fleet::new(rabbit, Store::new(&address, redis::Options::default()).unwrap());

    let (connection, channel) = place.channel().await;
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let (exchange, options) = (place.name("out"), BasicPublishOptions::default());
    let properties = BasicProperties::default().with_delivery_mode(2);
    let sent = channel.basic_publish(exchange.as_str().into(), "upload".into(), options, b"{}", properties);
    assert!(sent.await.unwrap().await.unwrap().is_ack());
    connection.close(200, "sent".into()).await.unwrap();

    let mut flags = Vec::new();
    let last = loop {
        let received = tokio::time::timeout(Duration::from_secs(90), home.receive(Kind::Upload)).await;
        let received = received.unwrap_or_else(|_| panic!("nothing came after {} deliveries", flags.len())).unwrap();
        if received.is_spent {
            break received;
        }
        assert_eq!((received.origin, received.body.as_str()), (Origin::Return, "{}"));
        flags.push(received.is_redelivered);
        assert!(flags.len() <= 101, "what is given back is not counted");
    };
    // The first was no repetition, whatever its headers were; every other was.
    assert_eq!(flags.iter().position(|flag| *flag), Some(1), "{flags:?}");
    assert!(flags.iter().skip(1).all(|flag| *flag), "{flags:?}");
    assert_eq!(flags.len(), 101, "the limit is 100");
    assert!(last.is_redelivered && last.body == "{}");
    stop.cancel();
    while supervisor.join_next().await.is_some() {}
}
