//! Jobs of a fleet, listed, shown, watched, cancelled and run again.

use longshore::sandbox::{Fault, FaultKind, Params};

use crate::{fleet::Fleet, servers, world::until};

#[test]
fn a_job_is_seen_cancelled_run_again_and_watched_to_its_end() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("jobs", &[]);
    let world = &fleet.world;
    let params = Params { seconds: Some(3.0), ..Params::default() };
    world.fault(Fault { params, ..Fault::next("createProduct", FaultKind::Slow) });
    let _worker = world.worker();
    world.submit(&world.job("nic-1"), &[]).ended(0);
    until("its first write is under way", || world.was_called("createProduct"));
    let shown = world.run(&["job", "show", "nic-1"]).ended(0).json();
    assert_eq!((&shown["state"], &shown["step"]), (&"running".into(), &"create-product".into()), "{shown:#}");
    let wished = world.run(&["job", "cancel", "nic-1"]).ended(0).json();
    assert_eq!((&wished["state"], &wished["kind"]), (&"cancelling".into(), &"submission".into()), "{wished:#}");
    let watched = world.run(&["job", "watch", "nic-1"]).ended(20).json();
    assert_eq!(watched["state"], "cancelled", "{watched:#}");
    assert!(watched["product_id"].is_string(), "what was made at the service is named: {watched:#}");
    world.run(&["job", "cancel", "nic-1"]).ended(6);

    let retried = world.run(&["job", "retry", "nic-1", "--wait"]).ended(0).json();
    assert_eq!((&retried["state"], &retried["product_id"]), (&"completed".into(), &watched["product_id"]));
    world.run(&["job", "retry", "nic-1"]).ended(6);
    let listed = world.run(&["job", "list", "--state", "completed"]).ended(0).json();
    assert_eq!(
        (&listed["jobs"][0]["job"], &listed["jobs"][0]["generation"]),
        (&"nic-1".into(), &2.into()),
        "{listed:#}"
    );
    assert_eq!(world.sandbox.verdict()["totals"]["products"], 1);
    world.run(&["job", "show", "nic-2"]).ended(5);

    // The memory is lost: the list says since when it remembers, and nothing else is the matter.
    fleet.forget();
    let ran = world.run(&["job", "list"]).ended(0);
    assert_eq!(ran.json()["jobs"], serde_json::json!([]), "{}", ran.out);
    assert!(ran.err.contains("remembers since"), "{}", ran.err);
}

#[test]
fn a_wish_for_a_job_that_nobody_has_seen_yet_waits_for_it() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("wishes", &[]);
    let world = &fleet.world;
    let ran = world.run(&["job", "cancel", "nic-1"]).ended(0);
    assert!(ran.err.contains("nobody has seen job contoso/nic-1 yet"), "{}", ran.err);
    let params = Params { seconds: Some(4.0), ..Params::default() };
    world.fault(Fault { params, ..Fault::next("createProduct", FaultKind::Slow) });
    let _worker = world.worker();
    let result = world.submit(&world.job("nic-1"), &["--wait"]).ended(20).json();
    assert_eq!(result["state"], "cancelled", "{result:#}");
}
