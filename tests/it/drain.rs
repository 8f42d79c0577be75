//! How a worker stops: the first SIGTERM finishes what is under way, the second leaves at once.

use std::time::Duration;

use longshore::sandbox::{Fault, FaultKind, Params};

use crate::world::{Running, World, until};

fn slow(operation: &str, seconds: f64) -> Fault {
    let params = Params { seconds: Some(seconds), ..Params::default() };
    Fault { params, ..Fault::next(operation, FaultKind::Slow) }
}

/// A worker that was told to stop while its create takes so many seconds.
fn told_to_stop_in_a_create_of(seconds: f64) -> (World, Running) {
    let world = World::new();
    world.fault(slow("createProduct", seconds));
    let worker = world.worker();
    until("the worker is ready", || worker.says("/readyz", 200));
    world.submit(&world.job("nic-1"), &[]).ended(0);
    until("the create is under way", || world.was_called("createProduct"));
    worker.terminate();
    until("it takes nothing new", || worker.says("/readyz", 503));
    (world, worker)
}

#[test]
fn a_worker_that_is_told_to_stop_finishes_its_call_and_the_job_goes_on_with_the_next() {
    let (world, worker) = told_to_stop_in_a_create_of(3.0);
    assert!(worker.says("/livez", 200), "it still lives");
    let (code, said) = worker.ended();
    assert_eq!((code, said.contains("nothing is under way here")), (0, true), "{said}");
    // Its call's answer was recorded: the next one needs no look.
    let shown = world.run(&["job", "show", "nic-1"]).ended(0).json();
    assert!(shown["product_id"].is_string(), "{shown}");
    let _next = world.worker();
    world.completes("nic-1");
    let verdict = world.sandbox.verdict();
    assert_eq!((&verdict["clean"], &verdict["totals"]["products"]), (&true.into(), &1.into()), "{verdict}");
}

#[test]
fn a_second_signal_ends_it_at_once_and_the_next_worker_finds_the_effect() {
    let (world, worker) = told_to_stop_in_a_create_of(600.0);
    let begun = longshore::clock::monotonic();
    worker.terminate();
    let (code, said) = worker.ended();
    assert_eq!((code, said.contains("stopped at once")), (0, true), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let _next = world.worker();
    world.completes("nic-1");
    assert_eq!(world.sandbox.verdict()["totals"]["products"], 1);
}
