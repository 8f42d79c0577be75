//! `job watch` and `submit --wait` by the events of a fleet: topics of a job's own, rights that are missing, a memory that forgets.

use longshore::sandbox::{Fault, FaultKind, Params};
use serde_json::Value;

use crate::{
    fleet::Fleet,
    servers,
    world::{Ran, until},
};

/// The names of the events that were printed.
fn heard(ran: &Ran) -> Vec<String> {
    let lines = ran.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let types = lines.filter_map(|line| line["type"].as_str().map(str::to_owned));
    types.map(|name| name.trim_start_matches("dev.longshore.job.").trim_end_matches(".v1").to_owned()).collect()
}

/// The service asks for a pause at the next call of this operation: so long the job is parked.
fn parked_at(fleet: &Fleet, operation: &str) {
    let params = Params { seconds: Some(15.0), ..Params::default() };
    fleet.world.fault(Fault { params, ..Fault::next(operation, FaultKind::Throttle) });
}

#[test]
fn a_job_with_a_topic_of_its_own_is_heard_and_others_under_it_are_not() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("topics", &[]);
    let world = &fleet.world;
    let _worker = world.worker();
    let topical = |id: &str| {
        let mut job = world.job(id);
        job["topic"] = "netdrv.release-2-4".into();
        job
    };
    // The first one's topic stands in the view. Of the second one the view knows no more than that a worker has it, if the watch is
    // quick enough; it is heard in either case.
    for (id, other) in [("nic-1", "nic-2"), ("nic-3", "nic-4")] {
        if id == "nic-1" {
            parked_at(&fleet, "createProduct");
            world.submit(&topical(id), &[]).ended(0);
            until("it is parked", || world.run(&["job", "show", id]).json()["state"] == "waiting");
        } else {
            let params = Params { seconds: Some(3.0), ..Params::default() };
            world.fault(Fault { params, ..Fault::next("createProduct", FaultKind::Slow) });
            parked_at(&fleet, "createSubmission");
            world.submit(&topical(id), &[]).ended(0);
            until("a worker has it", || world.run(&["job", "show", id]).json()["state"] == "running");
        }
        let watched = std::thread::scope(|scope| {
            let watching = scope.spawn(|| world.run(&["--output", "ndjson", "job", "watch", id]));
            world.submit(&topical(other), &[]).ended(0);
            watching.join().unwrap().ended(0)
        });
        assert!(!watched.err.contains("status view"), "{}", watched.err);
        let names = heard(&watched);
        assert!(names.contains(&"progressed".to_owned()), "{names:?}");
        assert_eq!(names.last().map(String::as_str), Some("completed"), "{names:?}");
        assert!(!watched.out.contains(other), "{}", watched.out);
    }
    let view = world.run(&["job", "watch", "nic-1"]).ended(0).json();
    assert_eq!((&view["state"], &view["job"]), (&"completed".into(), &"nic-1".into()));
}

#[test]
fn whoever_may_not_listen_is_told_which_right_is_missing_and_asks_the_view() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("deaf", &["deaf-writer", "deaf-owner"]);
    let world = &fleet.world;
    let worker = world.worker();
    until("the worker is ready", || worker.says("/readyz", 200));
    let writes = "^(amq\\.gen-.*|deaf\\.jobs\\.v1)$";
    for (user, rights, lacks) in [
        ("deaf-writer", ["^$", "^deaf\\.jobs\\.v1$", "^$"], "configure on ^amq\\.gen-"),
        ("deaf-owner", ["^amq\\.gen-", writes, "^amq\\.gen-"], "read on the events"),
    ] {
        std::fs::write(world.path("broker-url"), fleet.broker.user(user, rights)).unwrap();
        let job = world.job(&format!("of-{user}"));
        let submitted = world.submit(&job, &["--wait"]).ended(0);
        assert_eq!(submitted.json()["state"], "completed", "{}", submitted.out);
        assert!(submitted.err.contains(lacks) && submitted.err.contains("status view"), "{}", submitted.err);
        let watched = world.run(&["job", "watch", &format!("of-{user}")]).ended(0);
        assert_eq!(watched.json()["state"], "completed", "{}", watched.out);
        assert!(watched.err.contains(lacks) && watched.err.contains("status view"), "{}", watched.err);
        // Other content is refused, which the view shows, too.
        let mut other = job.clone();
        other["spec"]["submission"]["create"]["name"] = "another".into();
        let refused = world.submit(&other, &["--wait"]).ended(2).json();
        assert_eq!((&refused["state"], &refused["error"]["code"]), (&"refused".into(), &"other-content".into()));
    }
    // And when the view is not there either, nothing is handed in.
    std::fs::write(world.path("redis-url"), "redis://127.0.0.1:1").unwrap();
    let ran = world.submit(&world.job("nic-9"), &["--wait"]).ended(4);
    assert!(ran.err.contains("read on the events"), "{}", ran.err);
}

#[test]
fn the_watch_ends_a_while_after_the_deadline_whatever_it_saw() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("late", &[]);
    let world = &fleet.world;
    world.set("[waits.parks]\nafter_deadline = \"1s\"");
    let mut job = world.job("nic-1");
    job["deadline"] = "2s".into();
    // Nobody works: the deadline comes and nobody says so.
    let ran = world.submit(&job, &["--wait"]).ended(12);
    assert_eq!(ran.json()["state"], "accepted", "{}", ran.out);
}

#[test]
fn a_memory_that_is_emptied_ends_no_watch() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("forgets", &[]);
    let world = &fleet.world;
    parked_at(&fleet, "createProduct");
    let _worker = world.worker();
    world.submit(&world.job("nic-1"), &[]).ended(0);
    until("it is parked", || world.run(&["job", "show", "nic-1"]).json()["state"] == "waiting");
    let watched = std::thread::scope(|scope| {
        let watching = scope.spawn(|| world.run(&["job", "watch", "nic-1"]));
        until("it listens", || fleet.broker.control(&["list_bindings", "source_name"]).1.contains("forgets.events.v1"));
        fleet.forget();
        watching.join().unwrap()
    });
    let result = watched.ended(0).json();
    assert_eq!((&result["state"], &result["job"]), (&"completed".into(), &"nic-1".into()), "{result:#}");
}
