//! How a worker of a fleet stops, and which kinds it works.

use std::time::Duration;

use longshore::sandbox::{Fault, FaultKind, Params};

use crate::{
    fleet::Fleet,
    servers,
    world::{Running, until},
};

/// A worker that was told to stop while its create takes so many seconds.
fn told_to_stop_in_a_create_of(fleet: &Fleet, seconds: f64) -> Running {
    let world = &fleet.world;
    let params = Params { seconds: Some(seconds), ..Params::default() };
    world.fault(Fault { params, ..Fault::next("createProduct", FaultKind::Slow) });
    let worker = world.worker();
    until("the worker is ready", || worker.says("/readyz", 200));
    world.submit(&world.job("nic-1"), &[]).ended(0);
    until("the create is under way", || world.was_called("createProduct"));
    worker.terminate();
    until("it takes nothing new", || worker.says("/readyz", 503));
    worker
}

#[test]
fn a_worker_that_is_told_to_stop_finishes_its_call_and_leaves_everything_else_to_the_next() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("drain", &[]);
    let world = &fleet.world;
    let worker = told_to_stop_in_a_create_of(&fleet, 3.0);
    assert!(worker.says("/livez", 200), "it still lives");
    let (code, said) = worker.ended();
    assert_eq!((code, said.contains("nothing is under way here")), (0, true), "{said}");
    // What is handed in meanwhile waits, and is seen to wait.
    world.submit(&world.job("nic-2"), &[]).ended(0);
    let listed = world.run(&["job", "list"]).ended(0);
    assert_eq!(listed.json()["unclaimed"], 1, "{}", listed.out);
    let screen = world.run(&["--output", "table", "job", "list"]).ended(0);
    let told = screen.err.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(told.contains("1 job waits to be claimed") && told.contains("longshore worker"), "{told}");
    let _next = world.worker();
    world.completes("nic-1");
    world.completes("nic-2");
    assert_eq!(world.run(&["job", "list"]).ended(0).json()["unclaimed"], 0);
    let verdict = world.sandbox.verdict();
    assert_eq!((&verdict["clean"], &verdict["totals"]["products"]), (&true.into(), &2.into()), "{verdict}");
}

#[test]
fn a_second_signal_ends_it_at_once_and_the_next_worker_finds_the_effect() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("at-once", &[]);
    let begun = longshore::clock::monotonic();
    let worker = told_to_stop_in_a_create_of(&fleet, 600.0);
    worker.terminate();
    let (code, said) = worker.ended();
    assert_eq!((code, said.contains("stopped at once")), (0, true), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
    let _next = fleet.world.worker();
    fleet.world.completes("nic-1");
    assert_eq!(fleet.world.sandbox.verdict()["totals"]["products"], 1);
}

#[test]
fn workers_of_a_kind_work_that_kind_alone_and_a_pool_of_each_carries_a_job_to_its_end() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("pools", &[]);
    let world = &fleet.world;
    let submits = world.worker_of(&["submission"]);
    until("the worker is ready", || submits.says("/readyz", 200));
    world.submit(&world.job("nic-1"), &[]).ended(0);
    // Its upload waits on a lane that nobody takes.
    until("the submission is made", || world.was_called("createInitialSubmission"));
    let waits = || world.run(&["job", "show", "nic-1"]).ended(0).json();
    until("it waits for an uploader", || {
        let shown = waits();
        shown["submission_id"].is_string() && shown["state"] == "waiting"
    });
    assert!(!world.was_called("commitSubmission"));
    let _others = world.worker_of(&["upload", "status-poll"]);
    world.completes("nic-1");
}
