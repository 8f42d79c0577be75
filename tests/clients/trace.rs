//! One trace from the producer's pipeline to events, dead letters and log lines.

use longshore::domain::{ids::JobKey, trace::Trace};
use serde_json::json;

use crate::{
    fleet::{Fleet, publish_with},
    python::{name, python},
    servers,
    world::until,
};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[test]
fn a_producers_trace_is_on_every_event_the_dead_letter_the_replay_and_the_log() {
    let Some(python) = python().filter(|_| servers::are_installed()) else { return };
    let fleet = Fleet::new("trace", &["guest"]);
    let worker = fleet.world.worker();
    let mut job = fleet.world.job("nic-1");
    job["spec"]["product"] = json!({ "id": "14300000000000099" });
    let (parent, state) = (format!("TRACEPARENT={TRACE}"), "TRACESTATE=congo=t61rcWkgMzE,rojo=1");
    let (events, ran) = fleet.produce(&python, &job, &[&parent, state]);
    assert_eq!((ran.status.code(), name(events.last().unwrap())), (Some(1), "failed"), "{events:#?}");
    for event in &events {
        let told = (&event["traceparent"], &event["tracestate"]);
        assert_eq!(told, (&TRACE.into(), &"congo=t61rcWkgMzE,rojo=1".into()), "{event:#}");
    }
    until("it is set aside", || {
        let listed = fleet.world.run(&["dead-letter", "list"]).ended(0).json();
        listed["dead_letters"].as_array().unwrap().len() == 1
    });
    let (headers, _) = fleet.first("trace.dlq.v1");
    assert_eq!(headers["longshore-trace-id"], ID, "{headers:#?}");
    assert_eq!((&*headers["traceparent"], &*headers["tracestate"]), (TRACE, "congo=t61rcWkgMzE,rojo=1"));
    assert_eq!((&*headers["longshore-form"], &*headers["longshore-attempts"]), ("end", "0"), "{headers:#?}");
    assert!(headers["longshore-fail-first"] <= headers["longshore-fail-last"], "{headers:#?}");

    // One generation later it is the same trace.
    fleet.world.run(&["dead-letter", "replay", "nic-1"]).ended(0);
    until("the replay has failed", || {
        let listed = fleet.world.run(&["job", "list", "--state", "failed"]).ended(0).json();
        listed["jobs"][0]["generation"] == 2
    });
    until("it is set aside again", || {
        let listed = fleet.world.run(&["dead-letter", "list"]).ended(0).json();
        listed["dead_letters"].as_array().unwrap().len() == 1
    });
    let (headers, _) = fleet.first("trace.dlq.v1");
    assert_eq!((&*headers["longshore-trace-id"], &*headers["traceparent"]), (ID, TRACE), "{headers:#?}");

    worker.terminate();
    let (_, said) = worker.ended();
    let of_job = said.lines().filter(|line| line.contains("nic-1")).collect::<Vec<_>>();
    assert!(!of_job.is_empty() && of_job.iter().all(|line| line.contains(ID)), "{said}");
}

#[test]
fn what_is_no_trace_is_dropped_and_a_job_without_one_has_its_own() {
    let Some(python) = python().filter(|_| servers::are_installed()) else { return };
    let fleet = Fleet::new("untraced", &["guest"]);
    let _worker = fleet.world.worker();
    let (events, ran) =
        fleet.produce(&python, &fleet.world.job("nic-1"), &["TRACEPARENT=00-no-trace-00", "TRACESTATE=a=1"]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let own = Trace::of_job(&JobKey::parse("contoso/nic-1").unwrap());
    for event in &events {
        assert_eq!((&event["traceparent"], event.get("tracestate")), (&own.parent().into(), None), "{event:#}");
    }
    let correlation = events.last().unwrap()["data"]["correlation_id"].as_str().unwrap().replace('-', "");
    assert_eq!(own.id(), correlation, "and Microsoft's logs are found by it");
    // What never becomes a job keeps its trace, too.
    let headers = [("traceparent", TRACE), ("tracestate", "congo=1")];
    publish_with(&fleet, "submission", "no job", &headers);
    until("it is set aside", || {
        let listed = fleet.world.run(&["dead-letter", "list"]).ended(0).json();
        listed["dead_letters"].as_array().unwrap().len() == 1
    });
    let (headers, body) = fleet.first("untraced.dlq.v1");
    assert_eq!((&*headers["longshore-trace-id"], &*headers["tracestate"], &*body), (ID, "congo=1", &b"no job"[..]));
}
