//! Dead letters at the broker, looked at and decided with the program.

use longshore::domain::ids::Sha256;
use serde_json::{Value, json};

use crate::{
    fleet::{Fleet, publish, publish_as},
    servers,
    world::until,
};

fn letters(fleet: &Fleet, flags: &[&str]) -> Vec<Value> {
    let arguments = ["dead-letter", "list"].iter().chain(flags).copied().collect::<Vec<_>>();
    let listed = fleet.world.run(&arguments).ended(0).json();
    listed["dead_letters"].as_array().unwrap().clone()
}

#[test]
fn what_failed_lies_there_and_goes_on_one_generation_later_and_a_message_that_is_no_job_keeps_its_text() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("letters", &[]);
    let _worker = fleet.world.worker();
    let mut job = fleet.world.job("nic-1");
    job["spec"]["product"] = json!({ "id": "14300000000000099" });
    let failed = fleet.world.submit(&job, &["--wait"]).json();
    assert_eq!(failed["state"], "failed", "{failed:#}");
    // In a fleet a file is named with its hash.
    publish(&fleet, "submission", &fleet.world.job("nic-2").to_string());
    until("it is set aside, too", || letters(&fleet, &["--class", "source"]).len() == 1);
    assert!(letters(&fleet, &["--class", "source"])[0]["message"].as_str().unwrap().contains("sha256"));
    fleet.world.run(&["dead-letter", "discard", "--class", "source"]).ended(0);
    // A producer cannot forge progress: a ticket on an intake lane is no job.
    let forged = r#"{"version":1,"place":{"generation":1,"step":40,"try":0}}"#;
    publish(&fleet, "submission", forged);
    until("both are set aside", || letters(&fleet, &[]).len() == 2);
    let both = letters(&fleet, &[]);
    let forgery = both.iter().find(|letter| letter["class"] == "undecodable").unwrap();
    let number = format!("#{}", forgery["number"]);
    let counts = fleet.world.run(&["dead-letter", "list", "--counts"]).ended(0).json();
    assert_eq!(counts["counts"].as_array().unwrap().len(), 2, "{counts:#}");

    // Nothing happens on a dry run.
    fleet.world.run(&["dead-letter", "replay", "contoso/nic-1", "--dry-run"]).ended(0);
    assert_eq!(letters(&fleet, &[]).len(), 2);
    let replayed = fleet.world.run(&["dead-letter", "replay", "nic-1"]).ended(0).json();
    assert_eq!((&replayed["state"], &replayed["job"]), (&"accepted".into(), &"nic-1".into()));
    // It fails again, one generation later, and lies there again.
    let generation = || {
        let shown = letters(&fleet, &["--class", failed["error"]["code"].as_str().unwrap()]);
        let job = shown.first().and_then(|letter| letter["job"].as_str().map(str::to_owned));
        job.map(|job| fleet.world.run(&["dead-letter", "show", &job]).ended(0).json()["ticket"]["place"].clone())
    };
    until("it has failed again", || generation().is_some_and(|place| place["generation"] == 2));

    fleet.world.run(&["dead-letter", "discard", &number]).ended(0);
    assert_eq!(letters(&fleet, &["--class", "undecodable"]), Vec::<Value>::new());
    fleet.world.run(&["dead-letter", "discard", &number]).ended(5);
    assert_eq!(letters(&fleet, &[]).len(), 1, "the other one was let go");
}

#[test]
fn one_person_at_a_time_looks_and_the_other_is_told_so() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("taken", &[]);
    let _other = fleet.consume("taken.dlq.v1");
    let ran = fleet.world.run(&["dead-letter", "list"]).ended(6);
    assert!(ran.err.contains("somebody else is looking"), "{}", ran.err);
}

#[test]
fn what_had_no_route_is_seen_and_sent_again_once_there_is_one() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("astray", &["guest"]);
    let mut job = fleet.world.job("nic-1");
    let package = std::fs::read(fleet.world.path("builds").join("nic-1.cab")).unwrap();
    job["spec"]["package"]["sha256"] = Sha256::of(&package).to_string().into();
    publish(&fleet, "submissions", &job.to_string());
    let astray = || letters(&fleet, &["--from", "unrouted"]);
    until("it lies among what had no route", || astray().len() == 1);
    let seen = astray();
    assert!(seen[0]["message"].as_str().unwrap().contains("submissions"), "{seen:#?}");
    fleet.bind("astray.jobs.v1", "astray.w.submission.v1", "submissions");
    let number = format!("#{}", seen[0]["number"]);
    let ran = fleet.world.run(&["dead-letter", "replay", &number, "--from", "unrouted"]).ended(6);
    assert!(ran.err.contains("guest") && ran.err.contains("--vouch"), "{}", ran.err);
    fleet.world.run(&["dead-letter", "replay", &number, "--from", "unrouted", "--vouch"]).ended(0);
    assert_eq!(astray(), Vec::<Value>::new());
    let _worker = fleet.world.worker();
    until("the job is carried out", || fleet.world.was_called("commitSubmission"));
}

#[test]
fn one_ticket_is_made_of_several_letters_of_a_job_and_a_letter_of_a_job_that_was_run_again_is_stale() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("stale", &[]);
    let worker = fleet.world.worker();
    let mut job = fleet.world.job("nic-1");
    job["spec"]["product"] = json!({ "id": "14300000000000099" });
    fleet.world.submit(&job, &["--wait"]);
    let of = |generation: u32| {
        let all = letters(&fleet, &[]);
        let place = |letter: &Value| {
            let number = format!("#{}", letter["number"]);
            let shown = fleet.world.run(&["dead-letter", "show", &number]).ended(0).json();
            shown["ticket"]["place"]["generation"].clone()
        };
        all.into_iter().filter(|letter| place(letter) == generation).collect::<Vec<_>>()
    };
    until("it is set aside", || of(1).len() == 1);
    assert_eq!(of(1)[0]["stale"], false);
    // Run again by hand, it fails again; the first letter says nothing that is still so.
    fleet.world.run(&["job", "retry", "nic-1", "--wait"]);
    until("it is set aside once more", || of(2).len() == 1);
    assert_eq!((&of(1)[0]["stale"], &of(2)[0]["stale"]), (&json!(true), &json!(false)));
    let number = format!("#{}", of(1)[0]["number"]);
    let ran = fleet.world.run(&["dead-letter", "replay", &number]).ended(0);
    assert!(ran.err.contains("run again since"), "{}", ran.err);
    assert_eq!((of(1).len(), of(2).len(), letters(&fleet, &[]).len()), (0, 1, 1), "nothing was run, one is gone");

    // A worker that died before it settled has set it aside twice. No worker: what is made stays where it is seen.
    drop(worker);
    fleet.double("stale.dlq.v1", "stale.dead.v1", "set-aside");
    until("both lie there", || fleet.depth("stale.dlq.v1") == (2, 0));
    let both = letters(&fleet, &[]);
    assert_eq!(both.len(), 2);
    let class = both[0]["class"].as_str().unwrap().to_owned();
    let ran = fleet.world.run(&["dead-letter", "replay", "--class", &class]).ended(0);
    assert_eq!(ran.out.matches("accepted").count(), 1, "{}", ran.out);
    assert_eq!(letters(&fleet, &[]), Vec::<Value>::new());
    assert_eq!(fleet.depth("stale.w.submission.return.v1").0, 1, "tickets of one generation");
}

#[test]
fn nobody_vouches_for_a_stranger_but_those_who_are_listed() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("vouch", &["ann"]);
    let url = fleet.broker.user("mallory-vouch", ["^$", r"^vouch\.jobs\.v1$", "^$"]);
    let body = fleet.world.job("nic-1").to_string();
    publish_as(&fleet, (&url, "mallory-vouch"), "submissions", &body);
    let astray = || letters(&fleet, &["--from", "unrouted"]);
    until("it lies among what had no route", || astray().len() == 1);
    let number = format!("#{}", astray()[0]["number"]);
    let replay = ["dead-letter", "replay", &number, "--from", "unrouted", "--vouch"];
    let ran = fleet.world.run(&replay).ended(4);
    let told = ran.err.split_whitespace().collect::<Vec<_>>().join(" ");
    for text in ["mallory-vouch", "accounts.contoso.producers", "security.operators", "guest"] {
        assert!(told.contains(text), "no {text:?} in {told}");
    }
    assert_eq!(astray().len(), 1);

    let more = fleet.world.path("more.toml");
    let text = std::fs::read_to_string(&more).unwrap();
    std::fs::write(&more, text.replace("[security]\n", "[security]\noperators = [\"guest\"]\n")).unwrap();
    fleet.bind("vouch.jobs.v1", "vouch.w.submission.v1", "submissions");
    let ran = fleet.world.run(&replay).ended(0);
    assert!(ran.err.contains("in your own name"), "{}", ran.err);
    assert_eq!((astray().len(), fleet.depth("vouch.w.submission.v1").0), (0, 1));
}
