//! The program itself as a client of the fleet.

use serde_json::json;

use crate::{
    fleet::Fleet,
    servers,
    world::{INF, until},
};

#[test]
fn submit_waits_for_the_end_and_prints_the_same_object_as_on_one_machine() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("submit", &[]);
    let worker = fleet.world.worker();
    until("the worker is ready", || worker.says("/readyz", 200));
    let job = fleet.world.job("nic-1");
    let result = fleet.world.submit(&job, &["--wait"]).ended(0).json();
    assert_eq!(
        (&result["state"], &result["job"], &result["schema"]),
        (&"completed".into(), &"nic-1".into(), &1.into())
    );
    assert_eq!(result["downloads"][0]["is_verified"], true, "{result:#}");
    assert!(result["product_id"].is_string() && result["error"].is_null(), "{result:#}");
    // The same job again is the same job: its recorded end is the answer.
    let again = fleet.world.submit(&job, &["--wait"]).ended(0).json();
    assert_eq!(again["product_id"], result["product_id"]);
    assert_eq!(fleet.world.sandbox.verdict()["totals"]["products"], 1);
    // Another content under the same id is no job, and the one who waits is told so.
    let mut other = job.clone();
    other["spec"]["submission"]["create"]["name"] = "another".into();
    let refused = fleet.world.submit(&other, &["--wait"]).ended(2).json();
    assert_eq!((&refused["state"], &refused["error"]["code"]), (&"refused".into(), &"other-content".into()));
    // Without --wait it is handed in, and no more is known.
    let handed_in = fleet.world.submit(&fleet.world.job("nic-2"), &[]).ended(0).json();
    assert_eq!((&handed_in["state"], &handed_in["job"]), (&"accepted".into(), &"nic-2".into()));
    // A package that is refused before anything is sent, and one that the service refuses.
    std::fs::write(fleet.world.path("builds").join("bad.cab"), INF).unwrap();
    let mut bad = fleet.world.job("nic-3");
    let path = fleet.world.path("builds").join("bad.cab");
    bad["spec"]["package"]["source"] = url::Url::from_file_path(path).unwrap().to_string().into();
    let refused = fleet.world.submit(&bad, &["--wait"]).ended(2).json();
    assert_eq!(refused["state"], "refused", "{refused:#}");
    let mut unknown = fleet.world.job("nic-4");
    unknown["spec"]["product"] = json!({ "id": "14300000000000099" });
    let failed = fleet.world.submit(&unknown, &["--wait"]).json();
    assert_eq!(failed["state"], "failed", "{failed:#}");
    assert!(failed["error"]["message"].is_string(), "{failed:#}");
}

#[test]
fn a_broker_that_is_not_there_is_told_in_seconds_with_what_to_do() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("nobody", &[]);
    std::fs::write(fleet.world.path("broker-url"), "amqp://guest:hunter-two@127.0.0.1:1/%2f").unwrap();
    fleet.world.set("[rabbitmq]\nconnect_timeout = \"1s\"");
    let ran = fleet.world.submit(&fleet.world.job("nic-1"), &[]).ended(13);
    assert!(ran.err.contains("broker") && ran.err.contains("[home]"), "{}", ran.err);
    assert!(!ran.err.contains("hunter-two"), "{}", ran.err);
}
