//! The exit codes that need trouble of their own: each by a real job against the sandbox's faults.

use longshore::{
    domain::step::Step,
    embedded::{DeadLetters, Embedded, Options, Replayed},
    sandbox::{Fault, FaultKind, Params},
};
use serde_json::{Value, json};

use crate::world::World;

/// A fault that never ends.
fn always(operation: &str, kind: FaultKind) -> Fault {
    Fault { count: None, ..Fault::next(operation, kind) }
}

/// What a job came to that lasts at most three seconds, and its story for people.
fn ended_by_its_deadline(world: &World, code: i32) -> (Value, String) {
    let mut job = world.job("nic-1");
    job["deadline"] = json!("3s");
    let result = world.submit(&job, &["--wait"]).ended(code).json();
    assert_eq!((&result["state"], &result["error"]["code"]), (&json!("timed-out"), &json!("deadline")), "{result}");
    let shown = world.run(&["job", "show", "nic-1", "--output", "table"]).ended(0).out;
    (result, shown)
}

#[test]
fn a_pause_that_lasts_longer_than_the_job_is_rate_limited() {
    let world = World::new();
    let params = Params { seconds: Some(60.0), ..Params::default() };
    world.fault(Fault { params, ..always("api", FaultKind::Throttle) });
    let (result, shown) = ended_by_its_deadline(&world, 7);
    assert_eq!(result["error"]["retryable"], true, "{result}");
    assert!(shown.contains("throttled"), "{shown}");
    assert_eq!(world.sandbox.verdict()["totals"]["products"], 0);
    // The same job goes on when the pause is over.
    assert!(result["error"]["next_step"].as_str().unwrap().contains("longshore job retry nic-1"), "{result}");
}

#[test]
fn a_service_that_answers_nothing_but_5xx_until_the_deadline_is_unavailable() {
    let world = World::new();
    world.fault(always("getSubmission", FaultKind::Gateway500));
    ended_by_its_deadline(&world, 13);
}

#[test]
fn a_step_that_failed_as_often_as_it_may_has_spent_its_attempts() {
    let world = World::new();
    world.set("[retry]\nmax_attempts = 3\nbackoff_base = \"10ms\"");
    world.fault(Fault { count: Some(3), ..Fault::next("getSubmission", FaultKind::Gateway500) });
    let result = world.submit(&world.job("nic-1"), &["--wait"]).ended(13).json();
    assert_eq!((&result["state"], &result["error"]["code"]), (&json!("failed"), &json!("attempts-spent")), "{result}");
    assert_eq!(result["error"]["retryable"], true);
    // The outage is over: the job goes on from where it stood, and makes nothing a second time.
    let retried = world.run(&["job", "retry", "nic-1", "--wait"]).ended(0).json();
    assert_eq!(retried["product_id"], result["product_id"]);
    let verdict = world.sandbox.verdict();
    assert_eq!((&verdict["clean"], &verdict["totals"]["products"]), (&json!(true), &json!(1)), "{verdict}");
}

#[test]
fn an_upload_url_that_stays_refused_is_a_failed_transfer_and_the_url_is_not_told() {
    let world = World::new();
    world.set("[retry]\nmax_attempts = 2\nbackoff_base = \"10ms\"");
    world.fault(always("uploadPackage", FaultKind::ExpiredSas));
    let ran = world.submit(&world.job("nic-1"), &["--wait"]).ended(10);
    let result = ran.json();
    assert_eq!((&result["state"], &result["error"]["code"]), (&json!("failed"), &json!("transfer")), "{result}");
    assert!(!ran.err.contains("sig=") && !ran.out.contains("sig="), "{}", ran.err);
    assert_eq!(world.sandbox.verdict()["totals"]["committed_submissions"], 0);
}

#[test]
fn a_file_in_the_way_of_a_download_is_a_local_failure_and_only_the_download_is_repeated() {
    let world = World::new();
    world.submit(&world.job("nic-1"), &[]).ended(0);
    // The sandbox's ids are those of hardware-api.md 15.1: the first submission has this one.
    let in_the_way = world.path("signed/signedPackage-1152921504606846978.zip");
    std::fs::write(&in_the_way, "somebody else's file").unwrap();
    let ran = world.run(&["job", "watch", "nic-1"]).ended(11);
    let result = ran.json();
    assert_eq!((&result["state"], &result["error"]["code"]), (&json!("failed"), &json!("local-io")), "{result}");
    assert!(result["error"]["message"].as_str().unwrap().contains("signed"), "{result}");
    assert_eq!(std::fs::read(&in_the_way).unwrap(), b"somebody else's file", "it was written over");
    std::fs::remove_file(&in_the_way).unwrap();
    world.run(&["job", "retry", "nic-1", "--wait"]).ended(0);
    let verdict = world.sandbox.verdict();
    let totals = &verdict["totals"];
    assert_eq!(
        (&verdict["clean"], &totals["products"], &totals["repeated_commits_refused"]),
        (&json!(true), &json!(1), &json!(0))
    );
}

#[test]
fn a_file_that_came_into_the_place_of_the_downloads_folder_ends_the_job_at_once() {
    let world = World::new();
    world.set("[retry]\nmax_attempts = 100\nbackoff_base = \"10s\"\nbackoff_cap = \"10s\"");
    let mut job = world.job("nic-1");
    let folder = world.path("signed").join("nic");
    job["spec"]["download"]["to"] = json!(url::Url::from_directory_path(&folder).unwrap());
    world.submit(&job, &[]).ended(0);
    std::fs::write(&folder, "somebody else's file").unwrap();
    let result = world.run(&["job", "watch", "nic-1"]).ended(11).json();
    assert_eq!((&result["state"], &result["error"]["code"]), (&json!("failed"), &json!("local-io")), "{result}");
    assert!(result["error"]["message"].as_str().unwrap().contains("it is no folder"), "{result}");
    std::fs::remove_file(&folder).unwrap();
    world.run(&["job", "retry", "nic-1", "--wait"]).ended(0);
}

#[test]
fn a_signed_package_that_is_another_one_does_not_verify() {
    let world = World::new();
    world.fault(always("downloadBlob", FaultKind::ForeignWrite));
    let result = world.submit(&world.job("nic-1"), &["--wait"]).ended(14).json();
    assert_eq!((&result["state"], &result["error"]["code"]), (&json!("failed"), &json!("verification")), "{result}");
    assert_eq!(result["error"]["retryable"], false);
    assert_eq!(result["downloads"], json!([]), "what did not verify is no result: {result}");
}

/// A ticket that nobody can have written: its product is done, and no product is known.
#[test]
fn a_ticket_that_contradicts_itself_is_an_internal_error() {
    let world = World::new();
    world.submit(&world.job("nic-1"), &[]).ended(0);
    world.run(&["job", "cancel", "nic-1"]).ended(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let home = Embedded::open(Options::new(world.path("home"))).unwrap();
        let letter =
            home.dead_letters(DeadLetters { limit: 1, ..DeadLetters::default() }).await.unwrap().pop().unwrap();
        let forged = home.replay_letter(letter.id, |ticket| {
            ticket.progress.done = vec![Step::Preflight, Step::CreateProduct];
            ticket.place.step = Step::CreateSubmission.number();
        });
        assert!(matches!(forged.await.unwrap(), Replayed::Ticket(_)));
    });
    let ran = world.run(&["job", "watch", "nic-1"]).ended(70);
    let result = ran.json();
    assert_eq!((&result["state"], &result["error"]["code"]), (&json!("failed"), &json!("internal")), "{result}");
    assert!(result["error"]["next_step"].as_str().unwrap().len() > 10, "{result}");
    assert_eq!(world.sandbox.verdict()["totals"]["products"], 0);
}
