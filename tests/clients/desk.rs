//! A person's reads in a fleet: by the token and within the rate that the workers share.

use longshore::sandbox::{Fault, FaultKind, Params};

use serde_json::Value;

use crate::{fleet::Fleet, servers};

/// Calls of this operation that the sandbox has seen.
fn calls(fleet: &Fleet, operation: &str) -> usize {
    let journal = fleet.world.sandbox.journal();
    journal.as_array().unwrap().iter().filter(|line| line["operation"] == operation).count()
}

#[test]
fn products_and_submissions_are_listed_and_shown_with_the_jobs_that_made_them() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("desk", &[]);
    let world = &fleet.world;
    let empty = world.run(&["product", "list"]).ended(0).json();
    assert_eq!(empty["products"], serde_json::json!([]));
    let _worker = world.worker();
    let product = world.submit(&world.job("nic-1"), &["--wait"]).ended(0).json()["product_id"].clone();
    // One that ends before its commit leaves an orphan.
    world.fault(Fault { count: None, ..Fault::next("createInitialSubmission", FaultKind::RoleMissing) });
    let orphan = world.submit(&world.job("nic-2"), &["--wait"]).json()["product_id"].clone();

    let listed = world.run(&["product", "list", "--mine"]).ended(0).json();
    let row = |id: &Value| listed["products"].as_array().unwrap().iter().find(|row| row["id"] == *id).unwrap().clone();
    assert_eq!((&row(&product)["job"], &row(&product)["job_state"]), (&"nic-1".into(), &"completed".into()));
    assert_eq!((&row(&orphan)["job"], &row(&orphan)["is_orphan"]), (&"nic-2".into(), &true.into()), "{listed:#}");
    let orphans = world.run(&["product", "list", "--orphans"]).ended(0).json();
    assert_eq!(orphans["products"].as_array().unwrap().len(), 1, "{orphans:#}");

    let product = product.as_str().unwrap();
    let shown = world.run(&["product", "show", product]).ended(0).json();
    assert_eq!((&shown["id"], &shown["job"]), (&product.into(), &"nic-1".into()), "{shown:#}");
    let submissions = world.run(&["submission", "list", product]).ended(0).json();
    let id = submissions["submissions"][0]["id"].as_str().unwrap().to_owned();
    let submission = world.run(&["submission", "show", product, &id]).ended(0).json();
    assert_eq!((&submission["id"], &submission["is_committed"]), (&id.as_str().into(), &true.into()));
    world.run(&["product", "show", "14300000000000099"]).ended(5);

    // What was made stays known by its name when the memory is lost; by whom is forgotten.
    fleet.forget();
    let listed = world.run(&["product", "list"]).ended(0).json();
    assert_eq!((listed["products"].as_array().unwrap().len(), &listed["products"][0]["job"]), (2, &().into()));
}

#[test]
fn one_token_serves_all_commands_and_one_pause_holds_for_all() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("shared", &[]);
    let world = &fleet.world;
    let tested = world.run(&["auth", "test"]).ended(0).json();
    assert_eq!(tested["accounts"][0]["good"], true, "{tested:#}");
    // From now on nobody gets another one: the first serves all.
    world.fault(Fault { count: None, ..Fault::next("token", FaultKind::Throttle) });
    world.run(&["product", "list"]).ended(0);
    world.run(&["auth", "test", "contoso"]).ended(0);
    let tokens = fleet.redis().keys().into_iter().filter(|key| key.starts_with("shared:tok:")).count();
    assert_eq!(tokens, 1, "it lies in the fleet's memory");
    let params = Params { seconds: Some(600.0), ..Params::default() };
    world.fault(Fault { params, ..Fault::next("listProducts", FaultKind::Throttle) });
    let throttled = world.run(&["product", "list"]).ended(7);
    assert!(throttled.err.contains("throttled until 20"), "{}", throttled.err);
    let before = calls(&fleet, "listProducts");
    let refused = world.run(&["submission", "list", "14300000000000001"]).ended(7);
    assert!(refused.err.contains("account contoso is throttled until 20"), "{}", refused.err);
    assert_eq!((calls(&fleet, "listProducts"), calls(&fleet, "listSubmissions")), (before, 0));
}
