//! Taking messages and giving them back.

use std::{collections::BTreeMap, time::Duration};

use longshore::{
    domain::{
        settlement::{Entry, Next},
        step::{Kind, Step},
    },
    engine::ports::{Origin, Queue},
};

use crate::harness::{
    Harness, assert_quiet, drop_ticket, key, names, polled, read, receive, settlement, take, ticket, within,
};

pub(crate) async fn a_message_is_given_to_one_taker_only<H: Harness>() {
    let harness = H::fresh().await;
    let workers = [harness.worker().await.0, harness.worker().await.0];
    for n in 0..20 {
        harness.put(&ticket(&format!("job-{n}"))).await;
    }
    let mut seen = BTreeMap::new();
    let mut held = Vec::new();
    for _ in 0..10 {
        let (one, two) = tokio::join!(receive(&workers[0], Kind::Submission), receive(&workers[1], Kind::Submission));
        for (received, ticket) in [one, two] {
            assert!(!received.is_redelivered);
            assert_eq!(received.origin, H::PUT);
            *seen.entry(ticket.key()).or_insert(0) += 1;
            held.push(received.delivery);
        }
    }
    assert!(seen.len() == 20 && seen.values().all(|times| *times == 1), "{seen:?}");
    assert_quiet(&workers[0], Kind::Submission).await;
}

pub(crate) async fn a_message_of_a_dead_worker_comes_again_and_is_marked<H: Harness>() {
    let harness = H::fresh().await;
    let (first, _) = harness.worker().await;
    let (second, _) = harness.worker().await;
    harness.put(&ticket("a")).await;
    let (received, _) = receive(&first, Kind::Submission).await;
    assert_quiet(&second, Kind::Submission).await;
    harness.kill(first).await;
    let (again, ticket) = receive(&second, Kind::Submission).await;
    assert!(again.is_redelivered && !received.is_redelivered);
    assert_eq!(ticket.key(), key("a"));
    drop(received);
    drop_ticket(&second, again.delivery, &ticket).await;
    assert_quiet(&second, Kind::Submission).await;
}

pub(crate) async fn a_delivery_that_is_dropped_comes_again_and_is_marked<H: Harness>() {
    let harness = H::fresh().await;
    let (home, _) = harness.worker().await;
    harness.put(&ticket("a")).await;
    let (received, _) = receive(&home, Kind::Submission).await;
    drop(received);
    let (again, ticket) = receive(&home, Kind::Submission).await;
    assert!(again.is_redelivered);
    drop_ticket(&home, again.delivery, &ticket).await;
    assert_quiet(&home, Kind::Submission).await;
}

pub(crate) async fn a_receive_that_is_cancelled_loses_nothing<H: Harness>() {
    let harness = H::fresh().await;
    let (home, _) = harness.worker().await;
    for n in 0..10 {
        harness.put(&ticket(&format!("job-{n}"))).await;
    }
    let mut settled = Vec::new();
    let mut round = 0;
    while settled.len() < 10 {
        round += 1;
        assert!(round < 300, "{settled:?}");
        let Some(received) = within(polled(round % 7, home.receive(Kind::Submission))).await else { continue };
        let received = received.unwrap();
        let ticket = read(&received);
        settled.push(ticket.key());
        drop_ticket(&home, received.delivery, &ticket).await;
    }
    settled.sort();
    settled.dedup();
    assert_eq!(settled.len(), 10);
    assert_quiet(&home, Kind::Submission).await;
}

pub(crate) async fn a_parked_ticket_comes_when_it_is_due_and_not_before<H: Harness>() {
    let harness = H::fresh().await;
    let (home, worker) = harness.worker().await;
    harness.put(&ticket("a")).await;
    let held = take(&home, worker, 1, Kind::Submission).await;
    let now = longshore::engine::ports::Memory::load(&home, &key("a")).await.unwrap().now;
    let parked = held.ticket.clone().parked(now.after(H::PARK));
    let done = settlement(&held.ticket, Some(held.me), Entry::LetGo, Next::Ticket(Box::new(parked.clone())));
    home.settle(held.delivery, Some(&key("a")), done).await.unwrap();
    harness.advance(H::PARK.saturating_sub(Duration::from_secs(1))).await;
    assert_quiet(&home, Kind::Submission).await;
    harness.advance(Duration::from_secs(1)).await;
    let (received, ticket) = receive(&home, Kind::Submission).await;
    assert_eq!(ticket, parked);
    assert!(!received.is_redelivered);
    assert_eq!(received.origin, Origin::Return);
}

pub(crate) async fn lanes_are_apart_and_unknown_ones_are_quiet<H: Harness>() {
    let harness = H::fresh().await;
    let (home, _) = harness.worker().await;
    assert_quiet(&home, Kind::Upload).await;
    harness.put(&ticket("a").at_step(Step::Poll)).await;
    assert_quiet(&home, Kind::Upload).await;
    assert_quiet(&home, Kind::Submission).await;
    let (received, _) = receive(&home, Kind::StatusPoll).await;
    assert_eq!(received.origin, Origin::Return);
}

pub(crate) async fn a_ticket_is_handed_on_as_it_was<H: Harness>() {
    let harness = H::fresh().await;
    let (home, _) = harness.worker().await;
    let mut odd = ticket("a").at_step(Step::Upload);
    odd.rest.insert("member_of_tomorrow".to_owned(), serde_json::json!({ "ü": [1, null] }));
    odd.progress.warnings.push("a \"quoted\" line\nand another".to_owned());
    harness.put(&odd).await;
    let (received, ticket) = within(receive(&home, Kind::Upload)).await;
    assert_eq!(ticket, odd);
    drop_ticket(&home, received.delivery, &ticket).await;
    assert!(names(&harness, &key("a")).await.is_empty());
}
