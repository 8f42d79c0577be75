//! What a worker of a fleet tells scrapers: everything of the documented table, and it moves with what happens.

use longshore::{
    sandbox::{Fault, FaultKind, Params},
    telemetry::Metrics,
};
use serde_json::json;

use crate::{fleet::Fleet, servers, world::until};

/// The sum over all series of one metric that have this label.
fn sum(text: &str, name: &str, label: &str) -> f64 {
    let of_it =
        |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']) && rest.contains(label));
    text.lines().filter(of_it).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn every_metric_of_a_fleets_worker_is_there_and_moves_with_what_happens() {
    if !servers::are_installed() {
        return;
    }
    let fleet = Fleet::new("metrics", &[]);
    let world = &fleet.world;
    world.set("[redis]\nconnect_timeout = \"1s\"\nresponse_timeout = \"1s\"");
    let worker = world.worker();
    let reads = |name: &str, label: &str| sum(&worker.probe("/metrics"), name, label);
    let reaches = |what: &str, name: &str, label: &str| until(what, || reads(name, label) >= 1.0);
    until("the worker is ready", || worker.says("/readyz", 200));
    let text = worker.probe("/metrics");
    for family in Metrics::of_fleet().unwrap().names() {
        assert!(text.contains(&format!("# TYPE {family} ")), "{family} is not in:\n{text}");
    }
    assert!(!text.contains("longshore_queue_length"), "an embedded home's queue is not here");
    assert_eq!((reads("longshore_broker_connected", ""), reads("longshore_memory_up", "")), (1.0, 1.0));
    assert!(reads("longshore_broker_blocked", "") < 0.5);

    // A job that is throttled once, while it is at work, and at its end.
    let params = Params { seconds: Some(1.0), ..Params::default() };
    world.fault(Fault { params, ..Fault::next("createProduct", FaultKind::Throttle) });
    let params = Params { seconds: Some(3.0), ..Params::default() };
    world.fault(Fault { params, ..Fault::next("createInitialSubmission", FaultKind::Slow) });
    world.submit(&world.job("nic-1"), &[]).ended(0);
    until("a call is under way", || world.was_called("createInitialSubmission"));
    assert!(reads("longshore_broker_deliveries_in_hand", "kind=\"submission\"") >= 1.0);
    world.completes("nic-1");
    reaches("the end is counted", "longshore_jobs_ended_total", "completed");
    for (name, label) in [
        ("longshore_broker_sessions_total", "opened"),
        ("longshore_broker_publishes_total", "confirmed"),
        ("longshore_broker_confirm_seconds_count", ""),
        ("longshore_memory_calls_total", "call=\"swap\",outcome=\"ok\""),
        ("longshore_memory_call_duration_seconds_count", "call=\"quota\""),
        ("longshore_permits_total", "by=\"shared\",class=\"write\",outcome=\"granted\""),
        ("longshore_gate_closings_total", "throttled"),
        ("longshore_token_lookups_total", "miss"),
        ("longshore_claims_total", "taken"),
    ] {
        assert!(reads(name, label) >= 1.0, "{name} {label} has not moved:\n{}", worker.probe("/metrics"));
    }
    until("nothing is in hand", || reads("longshore_broker_deliveries_in_hand", "") == 0.0);

    // What fails is set aside, by its class.
    let mut unknown = world.job("nic-2");
    unknown["spec"]["product"] = json!({ "id": "14300000000000099" });
    let failed = world.submit(&unknown, &["--wait"]).json();
    let class = format!("class={}", failed["error"]["code"]);
    reaches("a dead letter is counted", "longshore_dead_letters_total", &class);

    // The memory is emptied under a job: another life, and a suspect.
    world.fault(Fault {
        params: Params { seconds: Some(3.0), ..Params::default() },
        ..Fault::next("createProduct", FaultKind::Slow)
    });
    world.submit(&world.job("nic-3"), &[]).ended(0);
    until("the next job is at work", || reads("longshore_broker_deliveries_in_hand", "") >= 1.0);
    fleet.forget();
    reaches("another life is counted", "longshore_memory_epochs_total", "");
    reaches("a suspect is counted", "longshore_suspect_claims_total", "");
    // And silent.
    fleet.redis().freeze();
    until("the memory is down", || reads("longshore_memory_up", "") == 0.0);
    reaches("its silence is counted", "longshore_memory_calls_total", "gone");
    fleet.redis().thaw();
    until("the memory is up", || reads("longshore_memory_up", "") > 0.5);
}
