//! What a worker gives back when it stops, and how it stops.

use std::time::Duration;

use futures_util::FutureExt as _;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldArray, FieldTable},
};
use longshore::{
    domain::step::Kind,
    engine::ports::{Queue as _, Unavailable},
    rabbitmq::{self, Lane},
};

use crate::{
    hands::{Hands, job, until},
    servers,
    slow::Slow,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_with_us_is_given_back_all_at_once() {
    if !servers::are_installed() {
        return;
    }
    let hands = Hands::new().await;
    let slow = Slow::to(hands.broker.port, Duration::from_millis(100)).await;
    let options = hands.options([(Kind::StatusPoll, 400)]);
    let (home, _stop) = hands.home(rabbitmq::Options { urls: vec![slow.url().into()], ..options }).await;
    let lanes = [Lane::Intake, Lane::Return].map(|lane| hands.names.lane(Kind::StatusPoll, lane));
    for number in 0..200 {
        hands.hand_in("status-poll", &job(&format!("job-{number}"))).await;
    }
    assert!(home.receive(Kind::StatusPoll).now_or_never().is_none());
    hands.holds(&lanes[0], 0).await;
    let begun = longshore::clock::monotonic();
    home.broker().rest(&|_| Ok(())).await.unwrap();
    // One by one it would take 200 times there and back, 40 s.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    // Even what was still on its way to us.
    hands.holds(&lanes[1], 200).await;
    until("nothing is left", async || hands.depth(&lanes[0]).await == (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_given_back_goes_back_counted_and_keeps_none_of_the_others() {
    if !servers::are_installed() {
        return;
    }
    let hands = Hands::new().await;
    let options = hands.options([(Kind::StatusPoll, 16)]);
    let (home, _stop) = hands.home(rabbitmq::Options { max_job: 4_096, ..options }).await;
    let [intake, back] = [Lane::Intake, Lane::Return].map(|lane| hands.names.lane(Kind::StatusPoll, lane));
    for id in ["unsealed", "a", "b"] {
        hands.hand_in("status-poll", &job(id)).await;
    }
    hands.hand_in("status-poll", &(job("large") + &" ".repeat(4_096))).await;
    hands.hand_in("status-poll", &job("other").replace("status-poll", "upload")).await;
    // The broker has given this one out as often as it may.
    let mut death = FieldTable::default();
    for (name, value) in [("queue", back.as_str()), ("reason", "delivery_limit")] {
        death.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let mut headers = FieldTable::default();
    headers.insert("x-death".into(), AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::FieldTable(death)])));
    let properties = BasicProperties::default().with_headers(headers);
    assert!(hands.send(&hands.names.dead(), "broker", properties, b"{}").await);

    assert!(home.receive(Kind::StatusPoll).now_or_never().is_none());
    hands.holds(&intake, 0).await;
    hands.holds(&hands.names.dead_lane(), 0).await;
    let complete = |taken: &mut longshore::engine::intake::Taken| {
        if taken.ticket.job.id.as_str() == "unsealed" {
            return Err(Unavailable { what: "keys", why: "for this test".to_owned() });
        }
        Ok(())
    };
    home.broker().rest(&complete).await.unwrap_err();
    hands.holds(&back, 2).await;
    hands.holds(&intake, 3).await;
    hands.holds(&hands.names.dead_lane(), 1).await;
    hands.holds(&hands.names.set_aside(), 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_older_session_gave_out_is_not_given_back_by_us_and_holds_nothing_up() {
    if !servers::are_installed() {
        return;
    }
    let hands = Hands::alone().await;
    let (home, _stop) = hands.home(hands.options([(Kind::StatusPoll, 4)])).await;
    let [intake, back] = [Lane::Intake, Lane::Return].map(|lane| hands.names.lane(Kind::StatusPoll, lane));
    for id in ["a", "b", "c"] {
        hands.hand_in("status-poll", &job(id)).await;
    }
    assert!(home.receive(Kind::StatusPoll).now_or_never().is_none());
    hands.holds(&intake, 0).await;
    let pids = hands.broker.control(&["list_connections", "pid", "client_properties"]).1;
    for line in pids.lines().filter(|line| line.contains("longshore ")) {
        let pid = line.split_whitespace().next().unwrap();
        hands.broker.control(&["close_connection", pid, "closed by a test"]);
    }
    // The next session has been given the same jobs; those of the first lie in the way.
    until("it is connected again", async || home.broker().is_ready().is_ok()).await;
    until("it consumes again", async || hands.depth(&intake).await == (0, 1)).await;
    home.broker().rest(&|_| Ok(())).await.unwrap();
    hands.holds(&back, 3).await;
    assert_eq!(hands.depth(&intake).await.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_a_broker_that_says_nothing_any_more() {
    if !servers::are_installed() {
        return;
    }
    let hands = Hands::new().await;
    let slow = Slow::to(hands.broker.port, Duration::ZERO).await;
    let options = hands.options([(Kind::StatusPoll, 4)]);
    let options = rabbitmq::Options {
        urls: vec![slow.url().into()],
        heartbeat: Duration::from_secs(60),
        confirm_timeout: Duration::from_secs(1),
        ..options
    };
    let (home, stop) = hands.home(options).await;
    slow.freeze();
    let control = longshore::engine::intake::ControlTicket {
        control: longshore::engine::intake::Control::Cancel,
        job: longshore::domain::ids::JobKey::parse("contoso/a").unwrap(),
        generation: None,
        until: longshore::domain::time::Moment::default(),
    };
    home.broker().control(Kind::StatusPoll, &control).await.unwrap_err();
    tokio::time::timeout(crate::hands::PATIENCE, home.broker().gone()).await.unwrap();
    stop.cancel();
    // Saying goodbye to it would take five seconds.
    hands.ended(Duration::from_millis(3_500)).await;
}
