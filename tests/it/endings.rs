//! How jobs end, and the code that a script sees.

use longshore::sandbox::{Fault, FaultKind, Params};
use serde_json::json;

use crate::world::World;

#[test]
fn one_driver_goes_from_its_file_to_a_verified_signed_package() {
    let world = World::new();
    let ran = world.submit(&world.job("nic-1"), &["--wait"]).ended(0);
    let result = ran.json();
    assert_eq!((&result["schema"], &result["state"]), (&json!(1), &json!("completed")), "{result}");
    assert!(result["product_id"].is_string() && result["submission_id"].is_string(), "{result}");
    assert_eq!(result["error"], json!(null));
    let path = result["downloads"][0]["path"].as_str().unwrap();
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(result["downloads"][0]["is_verified"], true, "{result}");
    assert_eq!(result["downloads"][0]["sha256"], longshore::domain::ids::Sha256::of(&bytes).to_string());
    let verdict = world.sandbox.verdict();
    assert_eq!(verdict["clean"], true, "{verdict}");
    assert_eq!(verdict["totals"]["committed_submissions"], 1);

    // The same job again is the same job; another content under its id is refused; --new is another job.
    let again = world.submit(&world.job("nic-1"), &[]).ended(0).json();
    assert_eq!((&again["state"], &again["product_id"]), (&json!("completed"), &result["product_id"]));
    let mut other = world.job("nic-1");
    other["spec"]["submission"]["create"]["name"] = json!("another");
    let refused = world.submit(&other, &[]).ended(2);
    assert!(refused.err.contains("other content"), "{}", refused.err);
    let new = world.submit(&world.job("nic-1"), &["--new"]).ended(0).json();
    assert_eq!(new["state"], "accepted");
    assert_ne!(new["job"], "nic-1");
    assert_eq!(world.sandbox.verdict()["totals"]["products"], 1);

    // What has ended cannot be cancelled or repeated, and is shown to the last.
    world.run(&["job", "cancel", "nic-1"]).ended(6);
    world.run(&["job", "retry", "nic-1"]).ended(6);
    let shown = world.run(&["job", "show", "nic-1"]).ended(0).json();
    assert_eq!(shown["events"].as_array().unwrap().last().unwrap()["type"], "dev.longshore.job.completed.v1");
    let mine = world.run(&["product", "list", "--mine"]).ended(0).json();
    assert_eq!(mine["products"][0]["job"], "nic-1");
    let product = result["product_id"].as_str().unwrap();
    let submissions = world.run(&["submission", "list", product]).ended(0).json();
    assert_eq!(submissions["submissions"][0]["is_committed"], true);
    let rows = world.run(&["job", "list", "--state", "completed"]).ended(0).json();
    assert_eq!(rows["jobs"].as_array().unwrap().len(), 1);
}

#[test]
fn a_signed_package_that_was_compared_with_nothing_is_told_as_such() {
    let world = World::new();
    let signed = world.submit(&world.job("nic-1"), &["--wait"]).ended(0).json();
    let watch = json!({
        "id": "nic-1-watch",
        "kind": "status-poll",
        "account": "contoso",
        "spec": {
            "product": { "id": signed["product_id"] },
            "submission": { "id": signed["submission_id"] },
            "download": { "to": url::Url::from_directory_path(world.path("signed").join("more")).unwrap() },
        },
    });
    let ran = world.submit(&watch, &["--wait", "--output", "table"]).ended(0);
    assert!(!ran.err.contains("verified") && !ran.out.contains("verified"), "{}{}", ran.err, ran.out);
    assert!(ran.err.contains("not compared: the job brings no package"), "{}", ran.err);
    let result = world.run(&["job", "watch", "nic-1-watch"]).ended(0).json();
    assert_eq!(result["downloads"][0]["is_verified"], false, "{result}");
    for (job, words) in [("nic-1", "B, verified, SHA-256"), ("nic-1-watch", "B, not compared, SHA-256")] {
        let shown = world.run(&["job", "show", job, "--output", "table"]).ended(0).out;
        assert!(shown.contains(words), "{shown}");
    }
}

/// A job that meets this fault, followed to its end.
fn met(fault: Fault, code: i32) -> (World, serde_json::Value) {
    let world = World::new();
    world.fault(fault);
    let result = world.submit(&world.job("nic-1"), &["--wait"]).ended(code).json();
    (world, result)
}

#[test]
fn a_missing_role_is_not_allowed_and_the_way_on_is_named() {
    let (world, result) = met(Fault { count: None, ..Fault::next("createProduct", FaultKind::RoleMissing) }, 4);
    assert_eq!((&result["state"], &result["error"]["code"]), (&json!("failed"), &json!("forbidden")), "{result}");
    assert_eq!(result["error"]["http_status"], 403);
    assert!(result["error"]["next_step"].as_str().unwrap().contains("longshore job retry nic-1"), "{result}");
    assert!(result["error"]["correlation_id"].is_string());
    let letters = world.run(&["dead-letter", "list"]).ended(0).json();
    assert_eq!(letters["dead_letters"][0]["class"], "forbidden");
    // Handed in again it prints its result and names the way; --retry-failed goes it.
    let again = world.submit(&world.job("nic-1"), &[]).ended(4);
    assert!(again.err.contains("longshore job retry nic-1"), "{}", again.err);
    let retried = world.submit(&world.job("nic-1"), &["--retry-failed"]).ended(0).json();
    assert_eq!(retried["state"], "accepted");
}

#[test]
fn a_refusal_by_the_service_is_rejected() {
    let params = Params { status: Some(400), code: Some("invalidInput".into()), ..Params::default() };
    let (_, result) = met(Fault { params, ..Fault::next("createProduct", FaultKind::Status) }, 8);
    assert_eq!(result["error"]["code"], "rejected");
}

#[test]
fn a_workflow_that_fails_is_told_with_the_services_own_words_and_leaves_no_orphan() {
    let params =
        Params { step: Some("validation".into()), message: Some("The INF is not good.".into()), ..Params::default() };
    let (world, result) = met(Fault { params, ..Fault::next("commitSubmission", FaultKind::FailedStep) }, 9);
    assert_eq!(result["error"]["code"], "workflow-failed");
    assert!(result["error"]["message"].as_str().unwrap().contains("The INF is not good."), "{result}");
    let orphans = world.run(&["product", "list", "--orphans"]).ended(0).json();
    assert_eq!(orphans["products"], json!([]), "it was committed");
}

#[test]
fn a_job_whose_sign_in_is_refused_waits_and_the_code_says_why() {
    let world = World::new();
    let wrong = "a-wrong-one-of-more-than-sixteen-bytes";
    crate::run_folder::register_secret(wrong.as_bytes()).unwrap();
    std::fs::write(world.path("secret"), wrong).unwrap();
    let ran = world.submit(&world.job("nic-1"), &["--wait"]).ended(3);
    let result = ran.json();
    assert_eq!((&result["state"], &result["error"]["code"]), (&json!("waiting"), &json!("sign-in")), "{result}");
    assert!(!ran.err.contains(wrong), "{}", ran.err);
    world.run(&["auth", "test"]).ended(3);
    world.run(&["doctor"]).ended(3);
    // Tried again, and refused again: the second refusal ends it, not the memory of the first.
    let again = world.run(&["job", "watch", "nic-1"]).ended(3);
    assert!(again.err.contains("sign-in of account contoso is refused"), "{}", again.err);
    // Whoever mends it does not wait for what was parked before: a retry has it come, any of them follows it to its end.
    world.mend_secret();
    world.run(&["job", "retry", "nic-1"]).ended(0);
    let ended = world.submit(&world.job("nic-1"), &["--wait"]).ended(0).json();
    assert_eq!(ended["state"], "completed", "{ended}");
}

#[test]
fn a_mended_sign_in_is_tried_at_once_by_whoever_waits() {
    let world = World::new();
    std::fs::write(world.path("secret"), "a-wrong-one").unwrap();
    world.submit(&world.job("nic-1"), &["--wait"]).ended(3);
    world.mend_secret();
    let ended = world.submit(&world.job("nic-1"), &["--wait"]).ended(0).json();
    assert_eq!(ended["state"], "completed", "{ended}");
}

#[test]
fn a_cancelled_job_ends_as_cancelled_without_a_worker() {
    let world = World::new();
    world.submit(&world.job("nic-1"), &[]).ended(0);
    let cancelled = world.run(&["job", "cancel", "nic-1"]).ended(0).json();
    assert_eq!(cancelled["state"], "cancelled", "{cancelled}");
    assert_eq!(world.sandbox.verdict()["totals"]["products"], 0);
    world.run(&["job", "watch", "nic-1"]).ended(20);
    let retried = world.run(&["job", "retry", "nic-1", "--wait"]).ended(0).json();
    assert_eq!(retried["state"], "completed");
}

#[test]
fn a_job_past_its_deadline_has_timed_out() {
    let world = World::new();
    let mut job = world.job("nic-1");
    job["deadline"] = json!("2020-01-01T00:00:00Z");
    let result = world.submit(&job, &["--wait"]).ended(12).json();
    assert_eq!(result["state"], "timed-out", "{result}");
}

#[test]
fn what_nobody_knows_is_not_found() {
    let world = World::new();
    world.submit(&world.job("nic-1"), &[]).ended(0);
    let ran = world.run(&["job", "show", "nik-1"]).ended(5);
    assert!(ran.err.contains("did you mean nic-1?"), "{}", ran.err);
    for arguments in [
        &["job", "watch", "other"][..],
        &["job", "cancel", "other"],
        &["job", "retry", "other"],
        &["dead-letter", "show", "nic-1"],
        &["dead-letter", "discard", "99"],
        &["product", "show", "14300000000000099"],
    ] {
        let ran = world.run(arguments).ended(5);
        assert!(ran.err.starts_with("error: ") && ran.err.contains("\n  next "), "{arguments:?}: {}", ran.err);
        // What was asked of the service can be named to its support.
        assert_eq!(arguments[0] == "product", ran.err.contains("\n  trace    correlation id "), "{}", ran.err);
    }
}

#[test]
fn an_account_that_nobody_knows_is_not_found_and_one_without_jobs_has_none() {
    let world = World::new();
    let empty = world.run(&["job", "list", "--account", "contoso", "--output", "table"]).ended(0);
    assert!(empty.out.contains("no jobs here"), "{}", empty.out);
    for noun in ["job", "dead-letter"] {
        let ran = world.run(&[noun, "list", "--account", "nobody"]).ended(5);
        for told in ["\"nobody\" is not configured", "no job of this home names it", "configured: contoso (own.toml)"] {
            assert!(ran.err.contains(told), "no {told:?} in {}", ran.err);
        }
    }
    // One that was taken out of the configuration still has its jobs, and with them its lists.
    world.submit(&world.job("nic-1"), &[]).ended(0);
    let own = std::fs::read_to_string(world.path("own.toml")).unwrap();
    std::fs::write(world.path("own.toml"), own.replace("[accounts.contoso]", "[accounts.other]")).unwrap();
    let rows = world.run(&["job", "list", "--account", "contoso"]).ended(0).json();
    assert_eq!(rows["jobs"][0]["job"], "nic-1");
    world.run(&["dead-letter", "list", "--account", "contoso"]).ended(0);
}

#[test]
fn an_id_that_two_accounts_have_is_named_with_its_account() {
    let world = World::new();
    let own = std::fs::read_to_string(world.path("own.toml")).unwrap();
    let account = own.split("[accounts.contoso]").nth(1).unwrap().split("\n[").next().unwrap();
    let account = account.replace("66666666-", "77777777-");
    world.set(&format!("[accounts.fabrikam]{account}"));
    let mut other = world.job("nic-1");
    other["account"] = json!("fabrikam");
    for job in [&world.job("nic-1"), &other] {
        world.submit(job, &[]).ended(0);
    }
    let ran = world.run(&["job", "show", "nic-1"]).ended(2);
    assert!(ran.err.contains("contoso/nic-1, or fabrikam/nic-1"), "{}", ran.err);
    world.run(&["job", "cancel", "fabrikam/nic-1"]).ended(0);
    let again = world.submit(&other, &[]).ended(20);
    assert!(again.err.contains("longshore job retry fabrikam/nic-1"), "{}", again.err);
    let ended = world.run(&["job", "cancel", "fabrikam/nic-1"]).ended(6);
    assert!(ended.err.contains("longshore job show fabrikam/nic-1"), "{}", ended.err);
    let retried = world.run(&["job", "retry", "contoso/nic-1"]).ended(6);
    assert!(retried.err.contains("longshore job show contoso/nic-1"), "{}", retried.err);
}

#[test]
fn sign_makes_the_same_job_of_the_same_package_and_refuses_equal_names() {
    let world = World::new();
    let cabinet = world.cabinet("nic.cab");
    let arguments = [
        "sign",
        cabinet.to_str().unwrap(),
        "--os",
        "WINDOWS_v100_X64_GE_FULL",
        "--out",
        "signed",
        "--product-name",
        "N",
    ];
    let first = world.run(&arguments).ended(0).json();
    let second = world.run(&arguments).ended(0).json();
    assert_eq!((&first["job"], &first["product_id"]), (&second["job"], &second["product_id"]));
    assert_eq!(world.sandbox.verdict()["totals"]["products"], 1);
    let other = world.cabinet("wifi.cab");
    let both = ["sign", cabinet.to_str().unwrap(), other.to_str().unwrap(), "--os", "X", "--product-name", "N"];
    let ran = world.run(&both).ended(2);
    assert!(ran.err.contains("{file}"), "{}", ran.err);
}

#[test]
fn a_job_whose_id_another_account_has_is_named_with_its_account() {
    let world = World::new();
    let mut other = world.job("nic-1");
    other["account"] = json!("fabrikam");
    world.set(
        "[accounts.fabrikam]\ntenant_id = \"11111111-2222-4333-8444-555555555555\"\n\
         client_id = \"66666666-7777-4888-8999-aaaaaaaaaaab\"\ncredential = { secret = \"file:secret\" }\n",
    );
    world.submit(&world.job("nic-1"), &[]).ended(0);
    world.run(&["job", "cancel", "nic-1"]).ended(0);
    let shown = || world.run(&["--output", "table", "dead-letter", "show", "contoso/nic-1"]).ended(0).out;
    assert!(!shown().contains("contoso/nic-1"), "its id is enough");
    world.submit(&other, &[]).ended(0);
    assert!(shown().contains("contoso/nic-1"), "{}", shown());
}
