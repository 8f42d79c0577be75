//! Lanes that cannot be consumed, and what comes over them that should not.

use lapin::{BasicProperties, options::QueueDeleteOptions};
use longshore::{
    domain::{settlement::Next, step::Kind},
    rabbitmq::{self, Lane},
};

use crate::{
    hands::{Hands, job, receive, settle, until},
    servers,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_lane_costs_that_lane_alone_until_it_is_declared() {
    if !servers::are_installed() {
        return;
    }
    let hands = Hands::new().await;
    let missing = hands.names.lane(Kind::Upload, Lane::Return);
    hands.channel().await.queue_delete(missing.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let (home, _stop) = hands.home(hands.options([(Kind::Upload, 1), (Kind::StatusPoll, 1)])).await;
    let (waiting, other) = (home.clone(), home.clone());
    let uploads = tokio::spawn(async move { receive(&waiting, Kind::Upload).await });
    hands.hand_in("status-poll", &job("a")).await;
    let held = receive(&other, Kind::StatusPoll).await;
    let says = async |text: &str| home.broker().is_ready().is_err_and(|down| down.why.contains(text));
    until("it says so", async || says(&missing).await && says("longshore topology declare").await).await;

    hands.declare().await;
    assert!(hands.send(&hands.names.out(), "upload", BasicProperties::default(), b"{}").await);
    let came = uploads.await.unwrap();
    settle(&home, came.delivery, Next::Nothing).await.unwrap();
    until("all is well", async || home.broker().is_ready().is_ok()).await;
    // All the while it was one session.
    settle(&home, held.delivery, Next::Nothing).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_our_user_may_not_read_is_named_and_the_others_are_worked() {
    if !servers::are_installed() {
        return;
    }
    let hands = Hands::new().await;
    let prefix = hands.names.prefix();
    let read = format!(r"^{prefix}\.w\.(status-poll|dead)");
    let url = hands.broker.user(&format!("half-{prefix}"), ["^$", "^$", &read]);
    let options = hands.options([(Kind::Upload, 1), (Kind::StatusPoll, 1)]);
    let (home, _stop) = hands.home(rabbitmq::Options { urls: vec![url.into()], ..options }).await;
    let waiting = home.clone();
    let _uploads = tokio::spawn(async move { receive(&waiting, Kind::Upload).await });
    hands.hand_in("status-poll", &job("a")).await;
    let held = receive(&home, Kind::StatusPoll).await;
    until("it says so", async || {
        home.broker().is_ready().is_err_and(|down| down.why.contains("may not read it") && down.why.contains("upload"))
    })
    .await;
    settle(&home, held.delivery, Next::Nothing).await.unwrap();
}

/// Canaries that anybody can publish neither take the place of the true ones nor are noted for anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_forged_canaries_hides_no_true_one_and_proves_nothing() {
    if !servers::are_installed() {
        return;
    }
    let hands = Hands::new().await;
    let (home, _stop) = hands.home(hands.options([(Kind::StatusPoll, 4)])).await;
    let waiting = home.clone();
    let _consuming = tokio::spawn(async move { receive(&waiting, Kind::StatusPoll).await });
    let canary = |id: String| {
        let mut headers = lapin::types::FieldTable::default();
        headers.insert("longshore-canary".into(), lapin::types::AMQPValue::LongString(id.into()));
        BasicProperties::default().with_headers(headers)
    };
    for number in 0..600 {
        assert!(hands.send(&hands.names.jobs(), "status-poll", canary(format!("{number:032x}")), b"").await);
    }
    let intake = hands.names.lane(Kind::StatusPoll, Lane::Intake);
    until("they are taken", async || hands.depth(&intake).await == (0, 1)).await;
    let ours = rabbitmq::canary::new_id();
    assert!(hands.send(&hands.names.out(), "status-poll", canary(ours.clone()), b"").await);
    let until_ours = async {
        loop {
            let came = home.broker().canary().await;
            if came.id == ours {
                return came;
            }
        }
    };
    let came = tokio::time::timeout(crate::hands::PATIENCE, until_ours).await.expect("ours is not told of");
    let lane = hands.names.lane(Kind::StatusPoll, Lane::Return);
    assert_eq!(came.lane, lane);

    // Noted is what is awaited, and back is what came over its own lane.
    let memory = home.memory();
    memory.await_canary(&ours).await.unwrap();
    let forged = rabbitmq::canary::new_id();
    memory.note_canary(&forged, &lane).await.unwrap();
    memory.note_canary(&ours, &intake).await.unwrap();
    let both = [(forged.as_str(), lane.as_str()), (ours.as_str(), lane.as_str())];
    assert_eq!(memory.canaries_back(&both).await.unwrap(), [false, false]);
    memory.note_canary(&ours, &lane).await.unwrap();
    assert_eq!(memory.canaries_back(&both).await.unwrap(), [false, true]);
}
