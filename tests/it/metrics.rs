//! What a worker tells scrapers and probes after a real job.

use longshore::sandbox::{Fault, FaultKind, Params};

use crate::world::{World, until};

/// Sum over all label values of one metric.
fn sum(text: &str, name: &str) -> f64 {
    let of_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    text.lines().filter(of_it).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn every_declared_metric_is_there_and_the_counters_have_moved_after_a_job() {
    let world = World::new();
    let params = Params { seconds: Some(1.0), ..Params::default() };
    world.fault(Fault { params, ..Fault::next("createProduct", FaultKind::Throttle) });
    world.fault(Fault::next("createInitialSubmission", FaultKind::LostAnswer));
    let worker = world.worker();
    world.submit(&world.job("nic-1"), &[]).ended(0);
    world.completes("nic-1");
    // The queue is looked at once a second: what was held while the job ended may be told a little longer.
    let mut text = String::new();
    until("its end is counted and nothing is held", || {
        text = worker.probe("/metrics");
        sum(&text, "longshore_jobs_ended_total") > 0.0 && text.contains("longshore_queue_length{state=\"held\"} 0")
    });
    for family in longshore::telemetry::Metrics::new().unwrap().names() {
        assert!(text.contains(&format!("# TYPE {family} ")), "{family} is not in:\n{text}");
    }
    for line in [
        "longshore_jobs_ended_total{end=\"completed\",kind=\"submission\"} 1",
        "longshore_steps_done_total{step=\"create-product\"} 1",
        "longshore_steps_done_total{step=\"download\"} 1",
        "longshore_calls_total{class=\"throttled\",operation=\"createProduct\"} 1",
        "longshore_looks_total{outcome=\"found\"} 1",
        "longshore_throttle_wait_seconds_count 1",
        "longshore_queue_length{state=\"held\"} 0",
        "longshore_messages_refused_total{class=\"undecodable\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
    }
    let moved =
        ["longshore_tickets_parked_total", "longshore_events_published_total", "longshore_transfer_bytes_total"];
    for name in moved.iter().chain(&["longshore_token_requests_total", "longshore_call_duration_seconds_count"]) {
        assert!(sum(&text, name) >= 1.0, "{name} has not moved:\n{text}");
    }
    assert!(!text.contains("nic-1"), "no label names a job:\n{text}");
}

#[test]
fn a_worker_whose_lock_file_is_gone_takes_no_work_and_says_so() {
    let world = World::new();
    let worker = world.worker();
    until("the worker is ready", || worker.says("/readyz", 200));
    let locks: Vec<_> =
        std::fs::read_dir(world.path("home/workers")).unwrap().map(|file| file.unwrap().path()).collect();
    for lock in locks.iter().filter(|path| path.extension().is_some_and(|end| end == "lock")) {
        std::fs::remove_file(lock).unwrap();
    }
    until("the worker is not ready", || worker.says("/readyz", 503));
    let why = worker.probe("/readyz");
    assert!(why.contains(".lock"), "{why}");
}
