//! What `doctor` says of roles, and that it changes nothing.

use std::collections::BTreeSet;

use longshore::{
    embedded::{Embedded, Options},
    sandbox::{Fault, FaultKind},
};
use serde_json::Value;

use crate::world::{Ran, World};

/// What it says of roles, in order.
fn roles(ran: &Ran) -> Vec<Value> {
    let findings = ran.json()["findings"].as_array().unwrap().clone();
    findings.into_iter().filter(|finding| finding["what"] == "roles").collect()
}

#[test]
fn whether_an_account_may_write_is_seen_by_a_write_that_changes_nothing() {
    let world = World::new();
    let quiet = roles(&world.run(&["doctor"]).ended(0));
    assert!(quiet[1]["good"].is_null() && quiet[1]["message"].as_str().unwrap().contains("--try-write"), "{quiet:?}");
    assert!(!world.sandbox.journal().to_string().contains("commitSubmission"), "it wrote without being asked to");
    let tried = roles(&world.run(&["doctor", "--try-write"]).ended(0));
    let told = tried[1]["message"].as_str().unwrap();
    assert!(tried[1]["good"].is_null() && told.contains("may probably create"), "a 404 is no certainty: {tried:?}");
    let totals = world.sandbox.verdict()["totals"].clone();
    assert!(totals["products"] == 0 && totals["submissions"] == 0 && totals["committed_submissions"] == 0, "{totals}");
}

#[test]
fn an_account_that_may_read_but_not_write_is_told_which_role_it_lacks() {
    let world = World::new();
    world.fault(Fault { count: None, ..Fault::next("commitSubmission", FaultKind::RoleMissing) });
    world.run(&["doctor"]).ended(0);
    let tried = roles(&world.run(&["doctor", "--try-write"]).ended(4));
    assert!(tried[0]["good"] == true && tried[1]["good"] == false, "{tried:?}");
    let next = tried[1]["next_step"].as_str().unwrap();
    assert!(next.contains("Driver Submitter") && next.contains("66666666-7777-4888-8999-aaaaaaaaaaaa"), "{next}");
}

#[test]
fn a_403_to_everything_that_does_not_exist_proves_nothing() {
    let world = World::new();
    world.fault(Fault { count: None, ..Fault::next("commitSubmission", FaultKind::RoleMissing) });
    world.fault(Fault { count: None, ..Fault::next("getSubmission", FaultKind::RoleMissing) });
    let tried = roles(&world.run(&["doctor", "--try-write"]).ended(0));
    assert!(
        tried[1]["good"].is_null() && tried[1]["message"].as_str().unwrap().contains("cannot be told"),
        "{tried:?}"
    );
}

#[test]
fn a_service_that_does_not_answer_the_try_is_told_as_such() {
    let world = World::new();
    world.fault(Fault { count: None, ..Fault::next("commitSubmission", FaultKind::Gateway500) });
    let tried = roles(&world.run(&["doctor", "--try-write"]).ended(13));
    assert_eq!(tried[1]["good"], false, "{tried:?}");
}

#[test]
fn a_worker_that_works_certain_jobs_only_is_none_that_runs() {
    let world = World::new();
    world.run(&["doctor"]).ended(0);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _within = runtime.enter();
    let home = Embedded::open(Options::new(world.path("home"))).unwrap();
    let restricted = home.worker_of(&BTreeSet::new()).unwrap();
    let running = || {
        let findings = world.run(&["doctor"]).ended(0).json()["findings"].clone();
        let home = findings.as_array().unwrap().iter().find(|finding| finding["what"] == "home").unwrap().clone();
        home["message"].as_str().unwrap().rsplit(" · ").next().unwrap().to_owned()
    };
    assert_eq!(running(), "no worker running");
    let free = home.worker().unwrap();
    assert_eq!(running(), "1 worker running");
    drop((restricted, free));
}
