//! A broker that has no memory left.

use std::time::Duration;

use futures_util::FutureExt as _;
use longshore::{
    domain::{settlement::Next, step::Kind},
    engine::ports::Queue as _,
    rabbitmq,
};

use crate::{
    hands::{Hands, job, now, receive, settle, until},
    servers,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_broker_has_an_alarm_nothing_new_is_begun_and_what_runs_is_kept() {
    if !servers::are_installed() {
        return;
    }
    let hands = Hands::alone().await;
    let options = hands.options([(Kind::StatusPoll, 4)]);
    let (home, _stop) = hands.home(rabbitmq::Options { confirm_timeout: Duration::from_secs(2), ..options }).await;
    let lane = hands.names.lane(Kind::StatusPoll, longshore::rabbitmq::Lane::Intake);
    for id in ["a", "b", "c"] {
        hands.hand_in("status-poll", &job(id)).await;
    }
    let first = receive(&home, Kind::StatusPoll).await;
    // The broker has given out the others, too: they lie with us.
    hands.holds(&lane, 0).await;
    hands.broker.alarm(true);

    let (ending, body) = (home.clone(), first.body.clone());
    let mut settling = tokio::spawn(async move { settle(&ending, first.delivery, now(&body)).await });
    until("it is not ready", async || home.broker().is_ready().is_err_and(|down| down.why.contains("alarm"))).await;
    let is_consumed = || hands.broker.control(&["list_consumers", "queue_name"]).1.contains(&lane);
    until("nothing is consumed", async || !is_consumed()).await;
    assert!(home.receive(Kind::StatusPoll).now_or_never().is_none(), "another job is begun");
    // Longer than a confirmation may take: what runs is kept all the same, and sent once.
    let waited = tokio::time::timeout(Duration::from_secs(5), &mut settling).await;
    assert!(waited.is_err(), "{waited:?}");

    hands.broker.alarm(false);
    settling.await.unwrap().unwrap();
    assert_eq!(home.broker().is_ready(), Ok(()));
    let mut seen = Vec::new();
    for _ in 0..3 {
        let received = receive(&home, Kind::StatusPoll).await;
        assert!(!received.is_redelivered, "the session was given up: {}", received.body);
        seen.push(received.body);
        settle(&home, received.delivery, Next::Nothing).await.unwrap();
    }
    seen.sort();
    assert_eq!(seen, ["a", "b", "c"].map(job));
    until("it is consumed again", async || hands.depth(&lane).await == (0, 1)).await;
}
