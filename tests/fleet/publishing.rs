//! Publishing: whose confirmation is whose, lanes that are full, waits below a second, and a memory that says nothing.

use std::time::Duration;

use lapin::{BasicProperties, options::QueuePurgeOptions};
use longshore::{
    clock,
    domain::{
        ids::JobId,
        job::Job,
        settlement::Next,
        step::{Kind, Step},
        ticket::Ticket,
        time::Moment,
    },
    engine::settle::Broker as _,
    fleet::Fleet,
    rabbitmq::{self, Lane},
    redis,
};
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    hands::{Hands, PATIENCE, job, now, receive, settle},
    servers,
};

fn decoded(id: &str) -> Job {
    Job::decode(job(id).as_bytes(), || None::<JobId>).unwrap()
}

/// Lets these lanes of a test refuse when they hold so many.
fn shorten(hands: &Hands, lane: &str, most: u32) {
    let (name, pattern) = (format!("{lane}-short"), format!("^{}$", lane.replace('.', r"\.")));
    let (is_done, said) =
        hands.broker.control(&["set_policy", &name, &pattern, &format!(r#"{{"max-length":{most}}}"#)]);
    assert!(is_done, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_publisher_is_told_of_its_own_message_however_many_publish_at_once() {
    if !servers::are_installed() {
        return;
    }
    let hands = Hands::new().await;
    let options = rabbitmq::Options { insistence: Duration::ZERO, ..hands.options([]) };
    let (home, _stop) = hands.home(options).await;
    let [full, open] = [Kind::Upload, Kind::StatusPoll].map(|kind| hands.names.lane(kind, Lane::Intake));
    shorten(&hands, &full, 1);
    while hands.send(&hands.names.jobs(), "upload", BasicProperties::default(), b"{}").await {}
    let before = hands.depth(&full).await.0;
    let mut publishers = JoinSet::new();
    for number in 0..16 {
        let broker = home.broker().clone();
        publishers.spawn(async move {
            let mut wrong = 0;
            for turn in 0..100 {
                let mut job = decoded(&format!("job-{number}-{turn}"));
                let is_open = (number + turn) % 2 == 0;
                job.kind = if is_open { Kind::StatusPoll } else { Kind::Upload };
                let told = broker.submit(&job, None, b"{}".to_vec()).await;
                wrong += u32::from(told.is_ok() != is_open);
            }
            wrong
        });
    }
    let wrong: u32 = publishers.join_all().await.into_iter().sum();
    assert_eq!(wrong, 0, "publishers were told of others' messages");
    assert_eq!((hands.depth(&open).await.0, hands.depth(&full).await.0), (800, before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_its_lane_refuses_for_a_moment_is_handed_in_all_the_same_and_not_for_ever() {
    if !servers::are_installed() {
        return;
    }
    let hands = Hands::new().await;
    let (home, _stop) = hands.home(rabbitmq::Options { insistence: PATIENCE, ..hands.options([]) }).await;
    let lane = hands.names.lane(Kind::Upload, Lane::Intake);
    shorten(&hands, &lane, 1);
    while hands.send(&hands.names.jobs(), "upload", BasicProperties::default(), b"{}").await {}
    let mut job = decoded("a");
    job.kind = Kind::Upload;
    let (broker, handed_in) = (home.broker().clone(), job.clone());
    let mut handing = tokio::spawn(async move { broker.submit(&handed_in, None, b"{}".to_vec()).await });
    let early = tokio::time::timeout(Duration::from_secs(2), &mut handing).await;
    assert!(early.is_err(), "it was told at once: {early:?}");
    hands.channel().await.queue_purge(lane.as_str().into(), QueuePurgeOptions::default()).await.unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, handing).await.unwrap().unwrap(), Ok(()));
    hands.holds(&lane, 1).await;

    // Full for good, it is told.
    let options = rabbitmq::Options { insistence: Duration::from_secs(1), ..hands.options([]) };
    let (home, _stop) = hands.home(options).await;
    while hands.send(&hands.names.jobs(), "upload", BasicProperties::default(), b"{}").await {}
    let told = tokio::time::timeout(PATIENCE, home.broker().submit(&job, None, b"{}".to_vec())).await.unwrap();
    assert!(told.is_err_and(|down| down.why.contains("refused a message")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_lane_keeps_the_delivery_and_takes_its_ticket_when_it_has_room() {
    if !servers::are_installed() {
        return;
    }
    let hands = Hands::new().await;
    let (home, _stop) = hands.home(hands.options([(Kind::StatusPoll, 1)])).await;
    hands.hand_in("status-poll", &job("a")).await;
    let held = receive(&home, Kind::StatusPoll).await;
    // It goes on to a lane that nobody takes from, and that is full.
    let lane = hands.names.lane(Kind::Upload, Lane::Return);
    shorten(&hands, &lane, 1);
    while hands.send(&hands.names.out(), "upload", BasicProperties::default(), b"{}").await {}
    let ticket = Ticket::new(decoded("a"), decoded("a").content_hash(), None, clock::moment()).at_step(Step::Upload);
    assert_eq!(ticket.lane(), Kind::Upload);
    let next = Next::Ticket(Box::new(ticket));
    let ending = home.clone();
    let mut settling = tokio::spawn(async move { settle(&ending, held.delivery, next).await });
    let early = tokio::time::timeout(Duration::from_secs(3), &mut settling).await;
    assert!(early.is_err(), "it was not kept: {early:?}");
    let purged = hands.channel().await.queue_purge(lane.as_str().into(), QueuePurgeOptions::default()).await.unwrap();
    assert!(purged > 0);
    tokio::time::timeout(PATIENCE, settling).await.unwrap().unwrap().unwrap();
    hands.holds(&lane, 1).await;
    assert_eq!(home.broker().is_ready(), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_that_rests_below_a_second_blocks_nobody_behind_it_and_is_never_early() {
    if !servers::are_installed() {
        return;
    }
    let hands = Hands::new().await;
    let (home, _stop) = hands.home(hands.options([(Kind::StatusPoll, 4)])).await;
    let mut is_passed = false;
    // On a busy machine it may be due before the other one is there: then there is nothing to see.
    for _ in 0..10 {
        let due = clock::moment().after(Duration::from_millis(950));
        let early = json!({ "name": "early", "due": due }).to_string();
        for body in [early.as_str(), r#"{"name":"late"}"#] {
            assert!(hands.send(&hands.names.out(), "status-poll", BasicProperties::default(), body.as_bytes()).await);
        }
        for number in 0..2 {
            let received = receive(&home, Kind::StatusPoll).await;
            assert!(received.body != early || clock::moment() >= due, "it was early");
            is_passed |= number == 0 && received.body != early;
            settle(&home, received.delivery, Next::Nothing).await.unwrap();
        }
        if is_passed {
            return;
        }
    }
    panic!("the other one always stood behind the one that rested");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_is_handed_on_while_the_memory_says_nothing() {
    if !servers::are_installed() {
        return;
    }
    let hands = Hands::new().await;
    let (home, _stop) = hands.home(hands.options([(Kind::StatusPoll, 1)])).await;
    let silent = redis::Options { response_timeout: PATIENCE.saturating_mul(2), ..redis::Options::default() };
    let home = Fleet::new(home.broker().clone(), hands.store(silent));
    let ticket = Ticket::new(decoded("a"), decoded("a").content_hash(), None, Moment::default()).at_step(Step::Poll);
    // It is connected before it says nothing.
    home.memory().waits_for_poll(&ticket.key()).await.unwrap();
    hands.redis.freeze();
    let published = tokio::time::timeout(PATIENCE, home.publish(&ticket)).await;
    hands.redis.thaw();
    published.expect("it waited for the memory").unwrap();
    let received = receive(&home, Kind::StatusPoll).await;
    settle(&home, received.delivery, now("{}")).await.unwrap();
}
