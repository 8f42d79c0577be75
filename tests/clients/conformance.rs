//! Events read with the CloudEvents SDK of Python, and compared with the schemas that the program prints.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use longshore::sandbox::{Fault, FaultKind, Params};
use serde_json::{Value, json};

use crate::{
    fleet::{Fleet, publish},
    python::{file, name, python_with},
    servers,
    world::until,
};

#[test]
fn every_event_is_what_the_schemas_say_by_the_word_of_the_sdk() {
    let modules = "pika, cloudevents.core.bindings.rabbitmq, jsonschema";
    let Some(python) = python_with(modules).filter(|_| servers::are_installed()) else { return };
    let fleet = Fleet::new("conformance", &["guest"]);
    let world = &fleet.world;
    let mut listening = Command::new(&python)
        .arg(file("python/conformance.py"))
        .args(["--url", &fleet.broker.url(), "--prefix", &fleet.prefix, "--job", "nic-last", "--schemas"])
        .arg(file("../../docs/schemas"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(listening.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert_eq!(lines.next().as_deref(), Some("listening"));
    let worker = world.worker();
    until("the worker is ready", || worker.says("/readyz", 200));
    // A pause, an answer that gets lost, a job with notes of its producer's, a refused one, and one that fails.
    let params = Params { seconds: Some(1.0), ..Params::default() };
    world.fault(Fault { params, ..Fault::next("createProduct", FaultKind::Throttle) });
    world.fault(Fault::next("createSubmission", FaultKind::LostAnswer));
    let mut job = world.job("nic-1");
    job["labels"] = json!({ "build": "4711" });
    world.submit(&job, &["--wait"]).ended(0);
    job["spec"]["submission"]["create"]["name"] = "another".into();
    publish(&fleet, "submission", &job.to_string());
    until("it is refused", || {
        let listed = world.run(&["dead-letter", "list", "--class", "source"]).ended(0).json();
        listed["dead_letters"].as_array().unwrap().len() == 1
    });
    let mut last = world.job("nic-last");
    last["spec"]["product"] = json!({ "id": "14300000000000099" });
    world.submit(&last, &["--wait"]);
    let events: Vec<Value> = lines.map(|line| serde_json::from_str(&line).unwrap()).collect();
    let ended = listening.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let mut names: Vec<&str> = events.iter().map(name).collect();
    names.sort_unstable();
    names.dedup();
    for wanted in ["accepted", "completed", "failed", "progressed", "refused", "started", "throttled"] {
        assert!(names.contains(&wanted), "{wanted} was not heard: {names:?}");
    }
    assert!(events.iter().any(|event| event["data"].get("in_doubt").is_some()), "{events:#?}");
    assert!(events.iter().any(|event| event["data"].get("workflow_step").is_some()), "{events:#?}");
}
