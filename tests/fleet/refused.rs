//! Messages that are no jobs of their lane, and the window of who looks at what was set aside.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use longshore::{
    domain::{event::Class, settlement::Next, step::Kind},
    rabbitmq::{Lane, Letters, Shelf},
};

use crate::{
    hands::{Hands, job, receive, settle},
    servers,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_too_large_or_of_another_kind_is_set_aside_and_the_next_one_is_worked() {
    if !servers::are_installed() {
        return;
    }
    let hands = Hands::new().await;
    let (home, _stop) = hands.home(hands.options([(Kind::StatusPoll, 4)])).await;
    let large = format!("{}{}", job("large"), " ".repeat(3 << 20));
    hands.hand_in("status-poll", &large).await;
    hands.hand_in("status-poll", r#"{"id":"other","kind":"upload","account":"contoso","spec":{}}"#).await;
    hands.hand_in("status-poll", &job("a")).await;
    let received = receive(&home, Kind::StatusPoll).await;
    assert_eq!(received.body, job("a"));
    settle(&home, received.delivery, Next::Nothing).await.unwrap();

    hands.holds(&hands.names.set_aside(), 2).await;
    let mut letters = home.broker().letters(Shelf::SetAside).await.unwrap();
    let told: Vec<(u64, Class, usize, String)> = letters
        .all()
        .map(|letter| (letter.id, letter.class, letter.body.as_ref().unwrap().len(), letter.message.clone()))
        .collect();
    let (cut, misplaced) = (&told[0], &told[1]);
    assert_eq!((cut.1, cut.2), (Class::Undecodable, 4_096));
    assert!(cut.3.contains(&large.len().to_string()), "{}", cut.3);
    assert!(
        misplaced.3.contains("of kind upload") && misplaced.3.contains("lane of kind status-poll"),
        "{}",
        misplaced.3
    );
    // Who handed it in is still known, and a part is never handed in for the whole.
    assert_eq!(letters.user(cut.0), Some("guest"));
    let refused = letters.send_again(cut.0, home.broker()).await.unwrap_err();
    assert!(refused.why.contains("only its beginning"), "{refused}");
    assert!(letters.discard(cut.0).await.unwrap());
    letters.close().await;
    hands.holds(&hands.names.set_aside(), 1).await;
}

fn ids(letters: &Letters) -> Vec<u64> {
    letters.all().map(|letter| letter.id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_taken_page_by_page_and_lie_in_their_order_again() {
    if !servers::are_installed() {
        return;
    }
    let hands = Hands::new().await;
    let (home, _stop) = hands.home(hands.options([])).await;
    for number in 0..300 {
        let body = format!(r#"{{"number":{number}}}"#);
        assert!(hands.send(&hands.names.dead(), "set-aside", BasicProperties::default(), body.as_bytes()).await);
    }
    let mut seen = Vec::new();
    for _ in 0..2 {
        hands.holds(&hands.names.set_aside(), 300).await;
        let letters = home.broker().letters(Shelf::SetAside).await.unwrap();
        let bodies: Vec<String> = letters.all().map(|letter| letter.body.clone().unwrap()).collect();
        assert_eq!(bodies, (0..300).map(|number| format!(r#"{{"number":{number}}}"#)).collect::<Vec<_>>());
        assert!(!letters.has_more);
        assert!(home.broker().letters(Shelf::SetAside).await.is_err(), "two look at once");
        seen.push(ids(&letters));
        letters.close().await;
    }
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_than_64_mib_of_bodies_are_looked_at_at_once() {
    if !servers::are_installed() {
        return;
    }
    let hands = Hands::alone().await;
    let (home, _stop) = hands.home(hands.options([])).await;
    let body = "x".repeat(4 << 20);
    for number in 0..20 {
        let body = format!("{number}{body}");
        assert!(hands.send(&hands.names.jobs(), "nobody", BasicProperties::default(), body.as_bytes()).await);
    }
    hands.holds(&hands.names.unrouted(), 20).await;
    let letters = home.broker().letters(Shelf::Unrouted).await.unwrap();
    assert!(letters.has_more && letters.bytes <= (64 << 20) + (5 << 20), "{}", letters.bytes);
    let kept: usize = letters.all().map(|letter| letter.body.as_ref().unwrap().len()).sum();
    assert!(ids(&letters).len() >= 15 && kept < 1 << 20, "{} letters, {kept} bytes", ids(&letters).len());
    letters.close().await;
}

/// What was set aside and had no route keeps what it says of itself; what a producer wrote says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unrouted_dead_letter_is_still_one_and_a_forged_one_is_not() {
    if !servers::are_installed() {
        return;
    }
    let hands = Hands::new().await;
    let (home, _stop) = hands.home(hands.options([])).await;
    let channel = hands.channel().await;
    let (queue, exchange) = (hands.names.set_aside(), hands.names.dead());
    let unbound = channel.queue_unbind(
        queue.as_str().into(),
        exchange.as_str().into(),
        "set-aside".into(),
        FieldTable::default(),
    );
    unbound.await.unwrap();
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("longshore-form", "message"),
        ("longshore-kind", "status-poll"),
        ("longshore-lane", "bulk"),
        ("longshore-fail-class", "not-allowed"),
        ("longshore-fail-message", "who are you"),
        ("longshore-producer", "ann"),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let properties = BasicProperties::default().with_headers(headers).with_user_id("guest".into());
    assert!(hands.send(&exchange, "set-aside", properties.clone(), job("a").as_bytes()).await);
    assert!(hands.send(&hands.names.jobs(), "nobody", properties, job("b").as_bytes()).await);
    hands.holds(&hands.names.unrouted(), 2).await;

    let mut letters = home.broker().letters(Shelf::Unrouted).await.unwrap();
    let both: Vec<_> = letters.all().cloned().collect();
    assert_eq!((both[0].class, both[0].message.as_str()), (Class::NotAllowed, "who are you"));
    assert_eq!((letters.user(both[0].id), letters.user(both[1].id)), (Some("ann"), Some("guest")));
    assert_eq!(both[1].class, Class::Undecodable, "a stranger's header was believed");
    assert!(letters.is_producers(both[0].id) && letters.is_producers(both[1].id));
    assert!(letters.send_again(both[0].id, home.broker()).await.unwrap());
    letters.close().await;
    // It lies on the lane of its kind again, in our own name, and says who vouched for whom.
    let lane = hands.names.lane(Kind::StatusPoll, Lane::Bulk);
    hands.holds(&lane, 1).await;
    let got = channel.basic_get(lane.as_str().into(), lapin::options::BasicGetOptions { no_ack: true }).await.unwrap();
    let got = got.unwrap().delivery;
    let header = |name: &str| {
        let headers = got.properties.headers().as_ref().unwrap().inner();
        headers.get(name).and_then(|value| value.as_long_string()).map(ToString::to_string)
    };
    assert_eq!(got.data, job("a").into_bytes());
    let user = got.properties.user_id().as_ref();
    assert!(user.is_some_and(|user| user.as_str() == "guest"));
    assert_eq!(header("longshore-vouched-by").as_deref(), Some("guest"));
    assert_eq!(header("longshore-published-by").as_deref(), Some("ann"));
}
