//! What only a person can decide: memory that was put back, a product that may be ours, and the two answers to it.

use serde_json::{Value, json};

use crate::world::{Ran, World};

/// A worker that dies at a named point: by its own hand, as no exit code says.
fn killed_at(world: &World, point: &str) {
    let mut command = world.command(&["worker"]);
    command.env("LONGSHORE_CRASH_AT", point);
    let ran = world.ran(command);
    assert!(
        ran.code == -1 && ran.err.contains(&format!("crash point {} reached", point.trim_end_matches(":1"))),
        "{}: {}",
        ran.code,
        ran.err
    );
}

/// The verdict, clean, with so many products and commits.
fn assert_clean(world: &World, products: u64) {
    let verdict = world.sandbox.verdict();
    assert_eq!(verdict["clean"], true, "{verdict}");
    let totals = &verdict["totals"];
    assert_eq!(
        (&totals["products"], &totals["committed_submissions"]),
        (&json!(products), &json!(products)),
        "{verdict}"
    );
}

/// Follows the job to the point where nobody but a person knows on; gives the one candidate's id.
fn needs_person(world: &World) -> String {
    let result = world.run(&["job", "watch", "nic-1"]).ended(9).json();
    assert_eq!(result["error"]["code"], "needs-person", "{result}");
    assert!(result["error"]["next_step"].as_str().unwrap().contains("dead-letter show nic-1"), "{result}");
    let letter = world.run(&["dead-letter", "show", "nic-1"]).ended(0).json();
    let candidates = letter["candidates"].as_array().unwrap();
    assert_eq!(candidates.len(), 1, "{letter}");
    let id = candidates[0]["id"].as_str().unwrap().to_owned();
    let shown = world.run(&["dead-letter", "show", "nic-1", "--output", "table"]).ended(0).out;
    for told in [format!("--adopt {id} "), "--create-again".to_owned()] {
        assert!(shown.contains(&told), "no {told:?} in {shown}");
    }
    id
}

#[test]
fn a_product_that_was_made_before_an_older_file_was_put_back_is_adopted_when_a_person_says_so() {
    let world = World::new();
    world.submit(&world.job("nic-1"), &[]).ended(0);
    // The product is made, and the one who made it never writes it down.
    killed_at(&world, "create-product.answer-read:1");
    world.run(&["doctor", "--restored"]).ended(0);
    let candidate = needs_person(&world);
    assert_eq!(world.sandbox.verdict()["totals"]["products"], 1);

    // An id that is none of the candidates is no decision, and changes nothing.
    let ran = world.run(&["dead-letter", "replay", "nic-1", "--adopt", "14300000000000999"]).ended(2);
    assert!(ran.err.contains("none of the candidates") && ran.err.contains(&candidate), "{}", ran.err);

    let replayed = world.run(&["dead-letter", "replay", "nic-1", "--adopt", &candidate]).ended(0).json();
    assert!(replayed["job"] == "nic-1" && replayed["error"].is_null(), "it goes on: {replayed}");
    let result = world.run(&["job", "watch", "nic-1"]).ended(0).json();
    assert_eq!((&result["state"], &result["product_id"]), (&json!("completed"), &json!(candidate)), "{result}");
    assert_clean(&world, 1);
    assert_eq!(world.run(&["dead-letter", "list"]).ended(0).json()["dead_letters"], json!([]));
}

#[test]
fn a_product_of_somebody_else_is_left_alone_when_a_person_says_create_again() {
    let world = World::new();
    world.submit(&world.job("nic-1"), &[]).ended(0);
    // The mark of the create is written, its request is never sent.
    killed_at(&world, "create-product.after-begin:1");
    let theirs = of_another_home(&world);
    world.run(&["doctor", "--restored"]).ended(0);
    let candidate = needs_person(&world);
    assert_eq!(candidate, theirs);
    let replayed = world.run(&["dead-letter", "replay", "nic-1", "--create-again"]).ended(0).json();
    assert!(replayed["job"] == "nic-1" && replayed["error"].is_null(), "it goes on: {replayed}");
    let result = world.run(&["job", "watch", "nic-1"]).ended(0).json();
    assert_eq!(result["state"], "completed", "{result}");
    assert_ne!(result["product_id"], json!(theirs));
    assert_clean(&world, 2);
}

/// A product has one initial submission: when another stands there, no other can be made, and none is offered.
#[test]
fn of_a_products_one_initial_submission_only_what_can_be_done_is_offered() {
    let world = World::new();
    world.submit(&world.job("nic-1"), &[]).ended(0);
    // Its product is made; the request for its submission is never sent, and another home makes one meanwhile.
    killed_at(&world, "create-submission.after-begin:1");
    let product = world.run(&["job", "show", "nic-1"]).ended(0).json()["product_id"].clone();
    let mut job = world.job("theirs");
    job["spec"]["product"] = json!({ "id": product });
    let theirs = run_in_another_home(&world, &job)["submission_id"].as_str().unwrap().to_owned();

    let result = world.run(&["job", "watch", "nic-1"]).ended(9).json();
    assert_eq!(result["error"]["code"], "needs-person", "{result}");
    let shown = world.run(&["dead-letter", "show", "nic-1", "--output", "table"]).ended(0).out;
    assert!(shown.contains(&format!("--adopt {theirs} ")), "{shown}");
    assert!(!shown.contains("--create-again") && shown.contains("a product has one initial submission"), "{shown}");

    let refused = world.run(&["dead-letter", "replay", "nic-1", "--create-again"]).ended(6);
    let flat = refused.err.split_whitespace().collect::<Vec<_>>().join(" ");
    for told in ["no other submission can be made for nic-1", "a product has one initial submission"] {
        assert!(flat.contains(told), "no {told:?} in {}", refused.err);
    }
    let letters = world.run(&["dead-letter", "list"]).ended(0).json();
    assert_eq!(letters["dead_letters"][0]["class"], "needs-person", "it is still for a person: {letters}");
}

/// A product of the same name and fields, made by a home that knows nothing of this one.
fn of_another_home(world: &World) -> String {
    let mut job = world.job("theirs");
    job["spec"]["product"] = world.job("nic-1")["spec"]["product"].clone();
    run_in_another_home(world, &job)["product_id"].as_str().unwrap().to_owned()
}

/// What a job came to in a home that knows nothing of this one.
fn run_in_another_home(world: &World, job: &Value) -> Value {
    let own = std::fs::read_to_string(world.path("own.toml")).unwrap();
    std::fs::write(world.path("other.toml"), own.replace("data_dir = \"home\"", "data_dir = \"other-home\"")).unwrap();
    let mut command = world.bare();
    command.args(["--config", "waits.toml", "--config", "other.toml", "submit", "-", "--wait"]);
    command.write_stdin(job.to_string());
    let ran: Ran = world.ran(command).ended(0);
    crate::run_folder::register_home(&world.path("other-home")).unwrap();
    ran.json()
}

#[test]
fn after_an_older_file_was_put_back_every_job_under_way_looks_before_it_writes() {
    let world = World::new();
    world.submit(&world.job("nic-1"), &[]).ended(0);
    // The submission is made and committed; then the file steps back to where it was before.
    let copy = world.path("copy");
    copy_folder(&world.path("home"), &copy);
    crate::run_folder::by_design(&copy.join("key")).unwrap();
    let first = world.run(&["job", "watch", "nic-1"]).ended(0).json();
    std::fs::remove_dir_all(world.path("home")).unwrap();
    copy_folder(&copy, &world.path("home"));
    let told = world.run(&["doctor", "--restored"]).ended(0);
    assert!(told.err.contains("looks before it writes"), "{}", told.err);
    // A product of this name stands at the service, with a submission that carries this job's marker: it is ours.
    let again = world.run(&["job", "watch", "nic-1"]);
    let looks = looks(&world);
    assert!(looks > 0, "it did not look: {}", again.out);
    let result = again.json();
    if result["state"] == "dead-lettered" {
        let candidate = needs_person(&world);
        assert_eq!(json!(candidate), first["product_id"]);
        world.run(&["dead-letter", "replay", "nic-1", "--adopt", &candidate]).ended(0);
        world.run(&["job", "watch", "nic-1"]).ended(0);
    }
    assert_clean(&world, 1);
}

fn looks(world: &World) -> usize {
    let journal = world.sandbox.journal();
    journal.as_array().unwrap().iter().filter(|entry| entry["operation"] == "listProducts").count()
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn the_file_is_not_declared_restored_while_a_worker_runs() {
    let world = World::new();
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("longshore"));
    command.args(["--config", "waits.toml", "--config", "own.toml", "worker"]).current_dir(world.folder.path());
    command.stdout(std::process::Stdio::null()).stderr(std::fs::File::create(world.path("worker.log")).unwrap());
    let mut worker = command.spawn().unwrap();
    let told = || -> Value {
        let ran = world.run(&["doctor"]).ended(0);
        ran.json()["findings"].as_array().unwrap().iter().find(|finding| finding["what"] == "home").unwrap().clone()
    };
    while !told()["message"].as_str().unwrap().contains("1 worker running") {
        assert!(worker.try_wait().unwrap().is_none(), "the worker ended");
    }
    let ran = world.run(&["doctor", "--restored"]).ended(6);
    assert!(ran.err.contains("stop them"), "{}", ran.err);
    worker.kill().unwrap();
    worker.wait().unwrap();
    world.run(&["doctor", "--restored"]).ended(0);
}
